use super::*;

const SECOND: Duration = Duration::from_secs(1);

pub(in crate::cli::top) fn row(name: &str, bytes_per_s: f64) -> Row<Value> {
    Row {
        client: Some(format!("10.0.0.1:{name}")),
        server: "10.0.0.9:80".to_owned(),
        protocol: Some("tcp".to_owned()),
        flows: 1,
        bytes_per_s,
        filter: format!("id={name}"),
        flow: Some(serde_json::json!({ "id": name, "status": "active", "state": "established" })),
        ..Row::default()
    }
}

pub(in crate::cli::top) fn top(rows: Vec<Row<Value>>) -> Top<Value> {
    let bytes_per_s = rows.iter().map(|row| row.bytes_per_s).sum();
    Top { flows: rows.len() as u64, rows_total: rows.len(), bytes_per_s, rows, ..Top::default() }
}

fn many(count: usize) -> Top<Value> {
    top((0..count).map(|n| row(&n.to_string(), 1000.0 - n as f64)).collect())
}

/// A model that shows `count` flows in ten rows.
fn model(count: usize) -> Model {
    let mut model = Model::new(View::Flows, None, false, String::new(), SECOND);
    model.fit(10);
    model.take(&model.query(true), Ok(many(count)));
    model
}

pub(in crate::cli::top) fn press(model: &mut Model, keys: &[KeyCode]) -> Wish {
    keys.iter().map(|code| model.press(KeyEvent::from(*code))).last().unwrap()
}

pub(in crate::cli::top) fn type_text(model: &mut Model, text: &str) {
    text.chars().for_each(|c| assert_ne!(press(model, &[KeyCode::Char(c)]), Wish::Quit));
}

#[test]
fn tabs_keep_their_orders() {
    let mut model = model(3);
    assert_eq!(press(&mut model, &[KeyCode::Char('s')]), Wish::Ask);
    assert_eq!(model.query(false).order, Order::Packets);
    assert_eq!(press(&mut model, &[KeyCode::Tab]), Wish::Ask);
    assert_eq!((model.query(false).view, model.query(false).order), (View::Pairs, Order::Rate));
    press(&mut model, &[KeyCode::Char('r'), KeyCode::Char('S')]);
    assert_eq!((model.query(false).order, model.query(false).reverse), (Order::Flows, true));
    press(&mut model, &[KeyCode::Char('3')]);
    assert_eq!((model.query(false).view, model.query(false).reverse), (View::Services, false));
    press(&mut model, &[KeyCode::Right]);
    assert_eq!((model.query(false).view, model.query(false).order), (View::Flows, Order::Packets));
    press(&mut model, &[KeyCode::BackTab]);
    assert_eq!(model.view, View::Services);
    // All the way around the orders.
    let orders = orders(View::Flows).len();
    press(&mut model, &[KeyCode::Char('1')]);
    press(&mut model, &vec![KeyCode::Char('>'); orders]);
    assert_eq!(model.order(), Order::Packets);
}

#[test]
fn answers_to_outdated_requests_are_ignored() {
    let mut model = model(3);
    let before = model.query(true);
    press(&mut model, &[KeyCode::Char('2')]);
    model.take(&before, Ok(many(5)));
    assert!(model.top.is_none());
    model.take(&model.query(false), Err("no agent answers".to_owned()));
    assert_eq!(model.trouble.as_deref(), Some("no agent answers"));
    model.take(&model.query(false), Ok(many(5)));
    assert_eq!((model.trouble.clone(), model.rows().len()), (None, 5));
}

#[test]
fn the_selected_row_is_followed_and_stays_in_sight() {
    let mut model = model(100);
    press(&mut model, &[KeyCode::Down, KeyCode::Down]);
    assert_eq!((model.selected, model.offset), (2, 0));
    // The selected row falls behind.
    let mut rows = many(100).rows;
    let selected = rows.remove(2);
    rows.insert(40, selected);
    model.take(&model.query(true), Ok(top(rows)));
    assert_eq!((model.selected, model.offset), (40, 31));
    press(&mut model, &[KeyCode::Home]);
    assert_eq!((model.selected, model.offset), (0, 0));
    let mut rows = many(100).rows;
    rows.swap(0, 50);
    model.take(&model.query(true), Ok(top(rows)));
    assert_eq!(model.selected, 0, "the first place selects the first row");
    press(&mut model, &[KeyCode::PageDown, KeyCode::PageDown, KeyCode::Up]);
    assert_eq!((model.selected, model.offset), (19, 11));
    press(&mut model, &[KeyCode::End]);
    assert_eq!((model.selected, model.offset), (99, 90));
    model.take(&model.query(true), Ok(many(5)));
    assert_eq!((model.selected, model.offset), (4, 0));
    model.take(&model.query(true), Ok(many(0)));
    assert_eq!((model.selected, model.offset, press(&mut model, &[KeyCode::Down])), (0, 0, Wish::Nothing));
    model.fit(0);
}

#[test]
fn more_rows_are_requested_further_down() {
    let mut model = model(50);
    assert_eq!(model.query(false).limit, 50);
    assert_eq!(press(&mut model, &[KeyCode::PageDown]), Wish::Nothing);
    assert_eq!(press(&mut model, &[KeyCode::End]), Wish::Ask);
    assert!(model.query(false).limit > 50);
}

#[test]
fn rates_become_trends() {
    let mut model = model(2);
    for n in 2..=5u32 {
        model.take(&model.query(true), Ok(top(vec![row("0", f64::from(n)), row(&n.to_string(), 1.0)])));
        // An update that a key caused is no step in time.
        model.take(&model.query(false), Ok(top(vec![row("0", 77.0)])));
    }
    assert_eq!(model.history(&row("0", 0.0)), [1000.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(model.history(&row("5", 0.0)), [1.0]);
    assert_eq!(model.history(&row("2", 0.0)), [] as [f64; 0], "it is gone");
    assert_eq!(model.total().next_back(), Some(6.0));
    for _ in 0..2 * BACK {
        model.take(&model.query(true), Ok(many(1)));
    }
    assert_eq!((model.total().len(), model.history(&row("0", 0.0)).len()), (BACK, BACK));
}

#[test]
fn a_filter_is_typed_and_checked() {
    let mut model = model(3);
    press(&mut model, &[KeyCode::Char('/')]);
    type_text(&mut model, "proto=tcp and dst_prt=1");
    let fault = model.edit.as_ref().unwrap().fault.clone().unwrap();
    assert_eq!(fault.column, 14);
    assert!(fault.message.contains("did you mean dst_port?"), "{}", fault.message);
    assert_eq!(press(&mut model, &[KeyCode::Enter]), Wish::Nothing, "it is not accepted");
    assert_eq!(model.filter, "");
    press(&mut model, &[KeyCode::Left, KeyCode::Left, KeyCode::Left, KeyCode::Left]);
    type_text(&mut model, "o");
    assert_eq!(model.edit.as_ref().unwrap().text(), "proto=tcp and dst_port=1");
    assert_eq!(press(&mut model, &[KeyCode::Enter]), Wish::Ask);
    assert_eq!(model.query(false).filter, "proto=tcp and dst_port=1");
    // While typing, q is a letter, and Esc discards the change.
    press(&mut model, &[KeyCode::Char('/')]);
    model.press(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
    type_text(&mut model, "q q");
    model.press(KeyEvent::new(KeyCode::Char('w'), KeyModifiers::CONTROL));
    assert_eq!(model.edit.as_ref().unwrap().text(), "q ");
    assert_eq!(press(&mut model, &[KeyCode::Esc]), Wish::Nothing);
    assert_eq!(model.filter, "proto=tcp and dst_port=1");
    assert_eq!(press(&mut model, &[KeyCode::Char('x')]), Wish::Ask);
    assert_eq!(model.filter, "");
    press(&mut model, &[KeyCode::Char('e')]);
    assert_eq!(model.filter, "status=failed");
    press(&mut model, &[KeyCode::Char('e')]);
    assert_eq!(model.filter, "");
}

#[test]
fn from_a_service_to_its_flows_and_back() {
    let mut model = Model::new(View::Services, None, false, "protocol=tcp".to_owned(), SECOND);
    let service = Row { filter: "server_ip=10.0.0.9 and server_port=80".to_owned(), flow: None, ..row("1", 1.0) };
    model.fit(10);
    model.take(&model.query(true), Ok(top(vec![service])));
    assert_eq!(press(&mut model, &[KeyCode::Enter]), Wish::Ask);
    let query = model.query(false);
    assert_eq!(query.view, View::Flows);
    assert_eq!(query.filter, "(protocol=tcp) and server_ip=10.0.0.9 and server_port=80");
    assert!(crate::filter::Filter::parse(&query.filter).is_ok());
    model.take(&query, Ok(many(2)));
    press(&mut model, &[KeyCode::Enter]);
    assert_eq!(model.cover, Cover::Flow(0));
    press(&mut model, &[KeyCode::Down]);
    assert_eq!(model.cover, Cover::Flow(1));
    assert_eq!(press(&mut model, &[KeyCode::Esc]), Wish::Nothing);
    assert_eq!(model.cover, Cover::Nothing);
    assert_eq!(press(&mut model, &[KeyCode::Backspace]), Wish::Ask);
    assert_eq!((model.view, model.filter.as_str()), (View::Services, "protocol=tcp"));
    assert_eq!(press(&mut model, &[KeyCode::Backspace]), Wish::Nothing);
}

#[test]
fn pause_pace_and_end() {
    let mut model = model(1);
    assert_eq!(press(&mut model, &[KeyCode::Char('p')]), Wish::Nothing);
    assert!(model.paused);
    assert_eq!(press(&mut model, &[KeyCode::Char(' ')]), Wish::Ask);
    assert!(!model.paused);
    press(&mut model, &[KeyCode::Char('-')]);
    assert_eq!(model.every, 2 * SECOND);
    press(&mut model, &[KeyCode::Char('+'); 20]);
    assert_eq!(model.every, Duration::from_millis(250));
    press(&mut model, &[KeyCode::Char('-'); 20]);
    assert_eq!(model.every, Duration::from_secs(30));
    press(&mut model, &[KeyCode::Char('?')]);
    assert_eq!(model.cover, Cover::Help);
    assert_eq!(press(&mut model, &[KeyCode::Char('q')]), Wish::Quit);
    assert_eq!(press(&mut model, &[KeyCode::Char('q')]), Wish::Quit);
    press(&mut model, &[KeyCode::Char('/')]);
    assert_eq!(model.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Wish::Quit);
}
