/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* memcached, text and binary. */
#pragma once

/* The form that the arguments of a memcached command must have. */
enum nm_memcached {
	NM_MC_NONE = 0,
	NM_MC_STORE,   /* key flags exptime bytes [noreply] */
	NM_MC_CAS,     /* the same, with a number before noreply */
	NM_MC_COUNT,   /* key number [noreply] */
	NM_MC_KEYS,    /* keys */
	NM_MC_STAT,    /* name value */
	NM_MC_VALUE,   /* key flags bytes [cas] */
	NM_MC_EXPIRE,  /* exptime keys */
	NM_MC_WEAK,    /* anything: other protocols have such words */
};

static __always_inline enum nm_memcached nm_memcached_request(__u64 word)
{
	if (NM_IS("set") || NM_IS("add") || NM_IS("replace") || NM_IS("append") || NM_IS("prepend"))
		return NM_MC_STORE;
	if (NM_IS("cas"))
		return NM_MC_CAS;
	if (NM_IS("incr") || NM_IS("decr"))
		return NM_MC_COUNT;
	if (NM_IS("gets"))
		return NM_MC_KEYS;
	if (NM_IS("gat") || NM_IS("gats"))
		return NM_MC_EXPIRE;
	/* Redis accepts some of these as inline commands, beanstalkd has others. Lower case only. */
	if (NM_IS("verbosity") || NM_IS("quit") || NM_IS("slabs") || NM_IS("lru") || NM_IS("lru_crawler") || NM_IS("cache_memlimit"))
		return NM_MC_WEAK;
	if (NM_IS("get") || NM_IS("delete") || NM_IS("touch") || NM_IS("version") || NM_IS("stats") || NM_IS("flush_all") ||
	    NM_IS("mg") || NM_IS("ms") || NM_IS("md") || NM_IS("ma") || NM_IS("me") || NM_IS("mn"))
		return NM_MC_WEAK;
	return NM_MC_NONE;
}

static __always_inline enum nm_memcached nm_memcached_reply(__u64 word)
{
	if (NM_IS("VALUE"))
		return NM_MC_VALUE;
	if (NM_IS("STAT"))
		return NM_MC_STAT;
	if (NM_IS("STORED") || NM_IS("NOT_STORED") || NM_IS("EXISTS") || NM_IS("NOT_FOUND") || NM_IS("DELETED") ||
	    NM_IS("TOUCHED") || NM_IS("END") || NM_IS("OK") || NM_IS("VERSION") || NM_IS("HD") || NM_IS("VA") || NM_IS("EN") ||
	    NM_IS("MN") || NM_IS("NF") || NM_IS("NS") || NM_IS("EX") || NM_IS("ME") || NM_IS("ERROR") || NM_IS("RESET") ||
	    NM_IS("CLIENT_ERROR") || NM_IS("SERVER_ERROR"))
		return NM_MC_WEAK;
	return NM_MC_NONE;
}

/* The kind of the first word, of `length` letters. */
__noinline int nm_memcached_kind(__u32 id, __u32 length)
{
	struct nm_l7 *w = nm_l7_of(id);
	int kind = NM_MC_NONE;
	__u64 word;

	if (!w || length < 2 || length > 14)
		return NM_MC_NONE;
	word = nm_word(w, 0, length, 0);
	if (nm_from_client(w))
		kind = nm_memcached_request(word);
	if (!kind && nm_from_server(w))
		kind = nm_memcached_reply(word);
	return kind;
}

/* Is every word from the n-th to the m-th a number? */
#define NM_NUMBERS(w, n, m) (!((w)->letters & ((2u << (m)) - (1u << (n)))))

__noinline int nm_detect_memcached(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	int kind, end, words, most;
	__u32 length;

	if (!w)
		return NM_NO;
	length = nm_run(id, 0, 'A', 'z');
	if (length > 14)
		return NM_NO;
	if (length >= w->s.have)
		return NM_MORE;
	/* LF alone ends a line too. */
	if (nm_byte(w, length) != ' ' && nm_byte(w, length) != '\r' && nm_byte(w, length) != '\n')
		return NM_NO;
	kind = nm_memcached_kind(id, length);
	if (kind == NM_MC_NONE)
		return NM_NO;
	end = nm_line(id, length);
	if (end == NM_NO || end == NM_MORE)
		return end;
	if (kind == NM_MC_WEAK) {
		/* Beanstalkd's OK is followed by a number. */
		if (NM_MATCH(w, 0, "OK ") == NM_YES)
			return NM_NO;
		w->s.weak |= NM_APP_BIT(NM_APP_MEMCACHED) | (nm_byte(w, 0) >= 'a' ? NM_REQUEST : NM_REPLY);
		return NM_NO;
	}
	words = nm_byte(w, length) == ' ' ? nm_words(id, length + 1, end) : 0;
	switch (kind) {
	case NM_MC_STORE:
		most = 4;
		break;
	case NM_MC_CAS:
		most = 5;
		break;
	case NM_MC_COUNT:
		most = 2;
		break;
	case NM_MC_STAT:
		return words >= 2 ? NM_APP_MEMCACHED : NM_NO;
	case NM_MC_KEYS:
		return words >= 1 ? NM_APP_MEMCACHED : NM_NO;
	case NM_MC_EXPIRE:
		return words >= 2 && NM_NUMBERS(w, 1, 1) ? NM_APP_MEMCACHED : NM_NO;
	default: /* NM_MC_VALUE */
		return (words == 3 || words == 4) && NM_NUMBERS(w, 2, 3) && (words == 3 || NM_NUMBERS(w, 4, 4)) ?
			       NM_APP_MEMCACHED :
			       NM_NO;
	}
	if (words != most && words != most + 1)
		return NM_NO;
	if (words == most + 1 && NM_MATCH(w, end - 8, " noreply") != NM_YES && NM_MATCH(w, end - 9, " noreply ") != NM_YES)
		return NM_NO;
	if (kind == NM_MC_COUNT)
		return NM_NUMBERS(w, 2, 2) ? NM_APP_MEMCACHED : NM_NO;
	/* The time of expiry may be negative. */
	return NM_NUMBERS(w, 2, 2) && NM_NUMBERS(w, 4, 4) && (kind == NM_MC_STORE || NM_NUMBERS(w, 5, 5)) ?
		       NM_APP_MEMCACHED :
		       NM_NO;
}

/* The form that a binary message must have, by its opcode: requests in the lower half, replies in the upper. */
#define NM_MCB_KNOWN 0x01
#define NM_MCB_EXTRAS4 0x02 /* sizes that the extras may have */
#define NM_MCB_EXTRAS8 0x04
#define NM_MCB_EXTRAS20 0x08
#define NM_MCB_NO_EXTRAS 0x10 /* the extras may be missing */
#define NM_MCB_KEY 0x20       /* a key is required; without this it is forbidden, except with: */
#define NM_MCB_MAY_KEY 0x40
#define NM_MCB_VALUE 0x80     /* a value is allowed */

#define NM_MCB_GET (NM_MCB_KNOWN | NM_MCB_NO_EXTRAS | NM_MCB_KEY)
#define NM_MCB_STORE (NM_MCB_KNOWN | NM_MCB_EXTRAS8 | NM_MCB_KEY | NM_MCB_VALUE)
#define NM_MCB_COUNT (NM_MCB_KNOWN | NM_MCB_EXTRAS20 | NM_MCB_KEY)
#define NM_MCB_JOIN (NM_MCB_KNOWN | NM_MCB_NO_EXTRAS | NM_MCB_KEY | NM_MCB_VALUE)
#define NM_MCB_TOUCH (NM_MCB_KNOWN | NM_MCB_EXTRAS4 | NM_MCB_KEY)
#define NM_MCB_FLUSH (NM_MCB_KNOWN | NM_MCB_NO_EXTRAS | NM_MCB_EXTRAS4)
#define NM_MCB_BARE (NM_MCB_KNOWN | NM_MCB_NO_EXTRAS)
#define NM_MCB_HIT (NM_MCB_KNOWN | NM_MCB_EXTRAS4 | NM_MCB_VALUE)
#define NM_MCB_HIT_KEY (NM_MCB_HIT | NM_MCB_KEY)
#define NM_MCB_TEXT (NM_MCB_KNOWN | NM_MCB_NO_EXTRAS | NM_MCB_VALUE)

static const __u8 nm_memcached_forms[128] = {
	/* get to append, with their quiet variants */
	[0x00] = NM_MCB_GET, [0x01] = NM_MCB_STORE, [0x02] = NM_MCB_STORE, [0x03] = NM_MCB_STORE, [0x04] = NM_MCB_GET,
	[0x05] = NM_MCB_COUNT, [0x06] = NM_MCB_COUNT, [0x07] = NM_MCB_BARE, [0x08] = NM_MCB_FLUSH, [0x09] = NM_MCB_GET,
	[0x0a] = NM_MCB_BARE, [0x0b] = NM_MCB_BARE, [0x0c] = NM_MCB_GET, [0x0d] = NM_MCB_GET, [0x0e] = NM_MCB_JOIN,
	[0x0f] = NM_MCB_JOIN, [0x10] = NM_MCB_BARE | NM_MCB_MAY_KEY, [0x11] = NM_MCB_STORE, [0x12] = NM_MCB_STORE,
	[0x13] = NM_MCB_STORE, [0x14] = NM_MCB_GET, [0x15] = NM_MCB_COUNT, [0x16] = NM_MCB_COUNT, [0x17] = NM_MCB_BARE,
	[0x18] = NM_MCB_FLUSH, [0x19] = NM_MCB_JOIN, [0x1a] = NM_MCB_JOIN, [0x1b] = NM_MCB_KNOWN | NM_MCB_EXTRAS4,
	[0x1c] = NM_MCB_TOUCH, [0x1d] = NM_MCB_TOUCH, [0x1e] = NM_MCB_TOUCH, [0x20] = NM_MCB_BARE, [0x21] = NM_MCB_JOIN,
	[0x22] = NM_MCB_JOIN, [0x23] = NM_MCB_TOUCH, [0x24] = NM_MCB_TOUCH,
	/* Quiet requests are answered only if they found something or failed. */
	[0x40] = NM_MCB_HIT, [0x41] = NM_MCB_BARE, [0x42] = NM_MCB_BARE, [0x43] = NM_MCB_BARE, [0x44] = NM_MCB_BARE,
	[0x45] = NM_MCB_TEXT, [0x46] = NM_MCB_TEXT, [0x47] = NM_MCB_BARE, [0x48] = NM_MCB_BARE, [0x49] = NM_MCB_HIT,
	[0x4a] = NM_MCB_BARE, [0x4b] = NM_MCB_TEXT, [0x4c] = NM_MCB_HIT_KEY, [0x4d] = NM_MCB_HIT_KEY, [0x4e] = NM_MCB_BARE,
	[0x4f] = NM_MCB_BARE, [0x50] = NM_MCB_TEXT | NM_MCB_MAY_KEY, [0x5b] = NM_MCB_BARE,
	[0x5c] = NM_MCB_KNOWN | NM_MCB_NO_EXTRAS | NM_MCB_EXTRAS4, [0x5d] = NM_MCB_HIT, [0x5e] = NM_MCB_HIT,
	[0x60] = NM_MCB_TEXT, [0x61] = NM_MCB_TEXT, [0x62] = NM_MCB_TEXT, [0x63] = NM_MCB_HIT_KEY, [0x64] = NM_MCB_HIT_KEY,
};

/* Does the header at the start of the window fit its opcode? */
__noinline int nm_memcached_form(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 reply, form, extras, key, value, fits;

	if (!w)
		return NM_NO;
	reply = nm_byte(w, 0) & 1;
	form = nm_memcached_forms[nm_index(nm_byte(w, 1) | reply << 6, 128)];
	key = nm_be16(w, 2);
	extras = nm_byte(w, 4);
	value = nm_be32(w, 8) - key - extras;
	if (!form)
		return NM_NO;
	fits = extras == 4 ? NM_MCB_EXTRAS4 : extras == 8 ? NM_MCB_EXTRAS8 : extras == 20 ? NM_MCB_EXTRAS20 : extras ? 0 : NM_MCB_NO_EXTRAS;
	if (!(form & fits))
		return NM_NO;
	if (key ? !(form & (NM_MCB_KEY | NM_MCB_MAY_KEY)) : form & NM_MCB_KEY)
		return NM_NO;
	if (value && !(form & NM_MCB_VALUE))
		return NM_NO;
	if (reply) {
		/* A counter has eight bytes; versions, statistics and names are text. */
		if (nm_byte(w, 1) == 5 || nm_byte(w, 1) == 6)
			return value == 8;
		if (form & NM_MCB_VALUE && form & NM_MCB_NO_EXTRAS && value)
			return nm_run(id, 24, ' ', '~') >= (24 + key + value < w->s.have ? 24 + key + value : w->s.have);
		return NM_YES;
	}
	/* A request without key and extras has no CAS either. */
	return key || extras || (!nm_be32(w, 16) && !nm_be32(w, 20));
}

/* The binary protocol: a header of 24 bytes whose fields fit the opcode, and a body; another message may follow it. */
__noinline int nm_detect_memcached_binary(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 magic, key, extras, status, body, value;

	if (!w || !w->s.have)
		return NM_NO;
	magic = nm_byte(w, 0);
	if (magic != 0x80 && magic != 0x81)
		return NM_NO;
	if (w->s.have < 24)
		return NM_MORE;
	if (magic == 0x81 ? !nm_from_server(w) : !nm_from_client(w))
		return NM_NO;
	key = nm_be16(w, 2);
	extras = nm_byte(w, 4);
	status = nm_be16(w, 6); /* of a request: the virtual bucket */
	body = nm_be32(w, 8);
	if (nm_byte(w, 5) || key > 250 || extras > 20 || body < key + extras || body > 0x4000000 || nm_byte(w, 1) > 0x24)
		return NM_NO;
	value = body - key - extras;
	if (magic == 0x81 && status) {
		/* The body of an error is a text, or the key that was not found; status 0x21 continues SASL. */
		if (!(status <= 0x21 || (status >= 0x81 && status <= 0x86)) || extras || (key && value))
			return NM_NO;
		if (nm_run(id, 24, ' ', 255) < (24 + body < w->s.have ? 24 + body : w->s.have) && status != 0x21)
			return NM_NO;
	} else if (status > 1024 || nm_memcached_form(id) != NM_YES) {
		return NM_NO;
	}
	if (body + 24 == nm_rest(w))
		return NM_APP_MEMCACHED;
	if (w->middle)
		return NM_NO;
	/* For a message longer than the payload, a readable key is enough. */
	if (body + 24 > nm_rest(w)) {
		if (key && w->s.have < 24 + extras + key && w->s.have < NM_WINDOW)
			return NM_MORE;
		if (!key || nm_run(id, 24 + extras, '!', '~') < 24 + extras + key)
			return body + 24 <= NM_WINDOW ? NM_MORE : NM_NO;
		return NM_APP_MEMCACHED;
	}
	if (body + 26 > NM_WINDOW)
		return key ? NM_APP_MEMCACHED : NM_NO;
	return nm_byte(w, body + 24) == magic && nm_byte(w, body + 25) <= 0x24 ? NM_APP_MEMCACHED : NM_NO;
}
