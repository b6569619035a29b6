/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Stores: Redis (RESP 2 and 3) and memcached, text and binary. */
#pragma once

/* The bulk string or number that starts at `at`: NM_YES if it is well-formed as far as it is there. */
static __always_inline int nm_resp_element(struct nm_l7 *w, __u32 id, __u32 at)
{
	__u32 type, number;
	int next;

	if (at >= w->s.have)
		return NM_MORE;
	type = nm_byte(w, at);
	if (type != '$' && type != ':')
		return NM_NO;
	next = nm_number_line(id, at + 1);
	if (next == NM_NO || next == NM_MORE || type == ':')
		return next == NM_NO || next == NM_MORE ? next : NM_YES;
	number = w->number;
	if (number >= NM_WINDOW - 2)
		return NM_NO;
	next += number;
	if (next + 2 > NM_WINDOW)
		return NM_NO;
	return NM_MATCH(w, next, "\r\n");
}

/* A line that starts with `text` and a space? */
#define NM_ERROR(w, text) (NM_MATCH(w, 0, text) == NM_YES)

__noinline int nm_detect_redis(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	int next, is;
	__u32 type;

	if (!w || !w->s.have)
		return NM_NO;
	type = nm_byte(w, 0);
	switch (type) {
	case '*': /* commands are arrays of bulk strings; replies may be arrays, and maps, sets, pushes of RESP 3 */
	case '%':
	case '~':
	case '>':
		if (type != '*' && !nm_from_server(w))
			return NM_NO;
		next = nm_number_line(id, 1);
		if (next == NM_NO || next == NM_MORE)
			return next;
		if (!w->number)
			return NM_NO;
		break;
	case '$': /* a reply */
		if (!nm_from_server(w))
			return NM_NO;
		next = 0;
		break;
	case '-':
		if (!nm_from_server(w))
			return NM_NO;
		is = nm_line(id, 1);
		if (is == NM_NO || is == NM_MORE)
			return is;
		if (NM_ERROR(w, "-NOAUTH Auth") || NM_ERROR(w, "-DENIED Redis") || NM_ERROR(w, "-WRONGTYPE Op") ||
		    NM_ERROR(w, "-LOADING Redis"))
			return NM_APP_REDIS;
		goto weak;
	case '+':
		if (!nm_from_server(w))
			return NM_NO;
		if (NM_MATCH(w, 0, "+PONG\r\n") == NM_YES)
			return NM_APP_REDIS;
		/* POP3 greets with +OK. */
		is = nm_line(id, 1);
		if (is == NM_NO || is == NM_MORE)
			return is;
		goto weak;
	case ':':
		if (!nm_from_server(w))
			return NM_NO;
		is = nm_number_line(id, 1);
		if (is == NM_NO || is == NM_MORE)
			return is;
		goto weak;
	case 'P':
	case 'p':
		if (!nm_from_client(w))
			return NM_NO;
		if (NM_MATCH(w, 0, "PING\r\n") != NM_YES && NM_MATCH(w, 0, "ping\r\n") != NM_YES)
			return NM_NO;
		goto weak;
	default:
		return NM_NO;
	}
	is = nm_resp_element(w, id, next);
	return is == NM_YES ? NM_APP_REDIS : is;
weak:
	w->s.weak |= NM_APP_BIT(NM_APP_REDIS) | (type == 'P' || type == 'p' ? NM_REQUEST : NM_REPLY);
	return NM_NO;
}

/* How the arguments of a memcached command must look. */
enum nm_memcached {
	NM_MC_NONE = 0,
	NM_MC_STORE,   /* key flags exptime bytes [noreply] */
	NM_MC_CAS,     /* the same and a number before noreply */
	NM_MC_COUNT,   /* key number [noreply] */
	NM_MC_KEYS,    /* keys */
	NM_MC_STAT,    /* name value */
	NM_MC_VALUE,   /* key flags bytes [cas] */
	NM_MC_EXPIRE,  /* exptime keys */
	NM_MC_WEAK,    /* anything: others have such words */
};

/* A word of up to 10 letters as two numbers: its first eight bytes, and its length, which tells the longer ones apart. */
#define NM_LETTER(text, i) ((i) < sizeof(text) - 1 ? (__u64)(text)[(i) < sizeof(text) ? (i) : 0] << 8 * (i) : 0)
#define NM_LETTERS(text)                                                                                   \
	(NM_LETTER(text, 0) | NM_LETTER(text, 1) | NM_LETTER(text, 2) | NM_LETTER(text, 3) | NM_LETTER(text, 4) | \
	 NM_LETTER(text, 5) | NM_LETTER(text, 6) | NM_LETTER(text, 7))
#define NM_IS(text) (length == sizeof(text) - 1 && word == NM_LETTERS(text))

static __always_inline enum nm_memcached nm_memcached_request(__u64 word, __u32 length)
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
	/* Redis takes some of these typed, beanstalkd has others. */
	if (NM_IS("get") || NM_IS("delete") || NM_IS("touch") || NM_IS("version") || NM_IS("stats") || NM_IS("flush_all") ||
	    NM_IS("mg") || NM_IS("ms") || NM_IS("md") || NM_IS("ma") || NM_IS("me") || NM_IS("mn"))
		return NM_MC_WEAK;
	return NM_MC_NONE;
}

static __always_inline enum nm_memcached nm_memcached_reply(__u64 word, __u32 length)
{
	if (NM_IS("VALUE"))
		return NM_MC_VALUE;
	if (NM_IS("STAT"))
		return NM_MC_STAT;
	if (NM_IS("STORED") || NM_IS("NOT_STORED") || NM_IS("EXISTS") || NM_IS("NOT_FOUND") || NM_IS("DELETED") ||
	    NM_IS("TOUCHED") || NM_IS("END") || NM_IS("OK") || NM_IS("VERSION") || NM_IS("HD") || NM_IS("VA") || NM_IS("EN") ||
	    NM_IS("MN") || NM_IS("NF") || NM_IS("NS"))
		return NM_MC_WEAK;
	return NM_MC_NONE;
}

/* Of the first word, which has so many letters. */
__noinline int nm_memcached_kind(__u32 id, __u32 length)
{
	struct nm_l7 *w = nm_l7_of(id);
	int kind = NM_MC_NONE;
	__u64 word;

	if (!w || length < 2 || length > 10)
		return NM_MC_NONE;
	word = *(__u64 *)w->bytes;
	if (length < 8)
		word &= (1ull << length * 8) - 1;
	if (nm_from_client(w))
		kind = nm_memcached_request(word, length);
	if (!kind && nm_from_server(w))
		kind = nm_memcached_reply(word, length);
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
	if (length > 10)
		return NM_NO;
	if (length >= w->s.have)
		return NM_MORE;
	if (nm_byte(w, length) != ' ' && nm_byte(w, length) != '\r')
		return NM_NO;
	kind = nm_memcached_kind(id, length);
	if (kind == NM_MC_NONE)
		return NM_NO;
	end = nm_line(id, length);
	if (end == NM_NO || end == NM_MORE)
		return end;
	if (kind == NM_MC_WEAK) {
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
	if (words == most + 1 && NM_MATCH(w, end - 8, " noreply") != NM_YES)
		return NM_NO;
	if (kind == NM_MC_COUNT)
		return NM_NUMBERS(w, 2, 2) ? NM_APP_MEMCACHED : NM_NO;
	/* The time of expiry may be negative. */
	return NM_NUMBERS(w, 2, 2) && NM_NUMBERS(w, 4, 4) && (kind == NM_MC_STORE || NM_NUMBERS(w, 5, 5)) ?
		       NM_APP_MEMCACHED :
		       NM_NO;
}

/* The binary protocol: a header of 24 bytes whose fields fit the opcode, and a body that ends with the payload. */
__noinline int nm_detect_memcached_binary(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 magic, opcode, key, extras, status, body, value;

	if (!w || !w->s.have)
		return NM_NO;
	magic = nm_byte(w, 0);
	if (magic != 0x80 && magic != 0x81)
		return NM_NO;
	if (w->s.have < 24)
		return NM_MORE;
	opcode = nm_byte(w, 1);
	key = nm_be16(w, 2);
	extras = nm_byte(w, 4);
	status = nm_be16(w, 6); /* of a request: the virtual bucket */
	body = nm_be32(w, 8);
	if (nm_byte(w, 5) || key > 250 || extras > 20 || body < key + extras || body > 0x4000000 || opcode > 0x22)
		return NM_NO;
	value = body - key - extras;
	if (body + 24 != nm_rest(w))
		return body + 24 > nm_rest(w) && nm_rest(w) < 0x10000 ? NM_MORE : NM_NO;
	if (magic == 0x81) {
		if (!nm_from_server(w))
			return NM_NO;
		/* Errors are a text of their own; the rest as the request's opcode has it. */
		if (status)
			return (status <= 0x20 || (status >= 0x81 && status <= 0x86)) && !key && !extras &&
					       (!value || nm_run(id, 24, ' ', '~') >= 24 + value) ?
				       NM_APP_MEMCACHED :
				       NM_NO;
		switch (opcode) {
		case 0x00: /* get */
		case 0x0c: /* getk */
			return extras == 4 && (opcode || !key) ? NM_APP_MEMCACHED : NM_NO;
		case 0x05: /* increment */
		case 0x06:
			return !extras && !key && value == 8 ? NM_APP_MEMCACHED : NM_NO;
		case 0x0a: /* noop */
		case 0x01: /* set, add, replace */
		case 0x02:
		case 0x03:
		case 0x04: /* delete */
			return !body ? NM_APP_MEMCACHED : NM_NO;
		case 0x0b: /* version */
			return !extras && !key && value && nm_run(id, 24, '.', '9') == 24 + value ? NM_APP_MEMCACHED :
												    NM_NO;
		}
		return NM_NO;
	}
	if (!nm_from_client(w) || status > 1024)
		return NM_NO;
	switch (opcode) {
	case 0x00: /* get, getq, getk, getkq */
	case 0x09:
	case 0x0c:
	case 0x0d:
	case 0x04: /* delete, deleteq */
	case 0x14:
		return !extras && key && !value ? NM_APP_MEMCACHED : NM_NO;
	case 0x01: /* set, add, replace, and their quiet kin */
	case 0x02:
	case 0x03:
	case 0x11:
	case 0x12:
	case 0x13:
		return extras == 8 && key ? NM_APP_MEMCACHED : NM_NO;
	case 0x05: /* increment, decrement */
	case 0x06:
		return extras == 20 && key && !value ? NM_APP_MEMCACHED : NM_NO;
	case 0x0e: /* append, prepend */
	case 0x0f:
		return !extras && key && value ? NM_APP_MEMCACHED : NM_NO;
	case 0x0a: /* noop, version, list of SASL mechanisms: no body, no CAS */
	case 0x0b:
	case 0x20:
		return !body && !nm_be32(w, 16) && !nm_be32(w, 20) ? NM_APP_MEMCACHED : NM_NO;
	case 0x21: /* SASL: the mechanism, what it has to say */
		return !extras && key ? NM_APP_MEMCACHED : NM_NO;
	}
	return NM_NO;
}
