/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Redis and compatible servers (Valkey, KeyDB): RESP 2 and 3, and inline commands. */
#pragma once

/* A word of up to 15 letters as a number: its first eight bytes, and from eight letters on its length, to keep long words apart. */
#define NM_LETTER(text, i) ((i) < sizeof(text) - 1 ? (__u64)(text)[(i) < sizeof(text) ? (i) : 0] << 8 * (i) : 0)
#define NM_LETTERS(text)                                                                                   \
	(NM_LETTER(text, 0) | NM_LETTER(text, 1) | NM_LETTER(text, 2) | NM_LETTER(text, 3) | NM_LETTER(text, 4) | \
	 NM_LETTER(text, 5) | NM_LETTER(text, 6) | NM_LETTER(text, 7))
#define NM_IS(text) (word == (NM_LETTERS(text) ^ (sizeof(text) > 8 ? (__u64)(sizeof(text) - 1) << 56 : 0)))

/* The `length` bytes from `at` (0 or 1) on as such a number. `fold` is ORed in: 0x20 in every byte ignores case. */
static __always_inline __u64 nm_word(const struct nm_l7 *w, __u32 at, __u32 length, __u64 fold)
{
	__u64 word = *(const __u64 *)w->bytes;

	if (at)
		word = word >> 8 | (__u64)nm_byte(w, 8) << 56;
	word |= fold;
	return length < 8 ? word & ((1ull << (length & 7) * 8) - 1) : word ^ (__u64)length << 56;
}

#define NM_RESP_LARGE 2 /* too large for the window to hold its end */

/*
 * Checks the element at `at`: NM_YES if it is well-formed as far as it is there. Commands consist of bulk strings and numbers;
 * replies (`any`) may contain every type.
 */
__noinline int nm_resp_element(__u32 id, __u32 at, __u32 any)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 type, number;
	int next;

	if (!w)
		return NM_NO;
	if (at >= w->s.have)
		return at < NM_WINDOW ? NM_MORE : NM_NO;
	type = nm_byte(w, at);
	if (any && (type == '+' || type == '-')) {
		next = nm_line(id, at + 1);
		return next == NM_NO || next == NM_MORE ? next : NM_YES;
	}
	if (any && type == '_') {
		next = NM_MATCH(w, at + 1, "\r\n");
		return next;
	}
	if (type != '$' && type != ':' && !(any && (type == '*' || type == '%' || type == '~' || type == '=')))
		return NM_NO;
	/* Numbers may be negative, and a null has a negative length. */
	number = any && nm_byte(w, at + 1) == '-';
	next = nm_number_line(id, at + 1 + number);
	if (next == NM_NO || next == NM_MORE)
		return next;
	if (type == ':')
		return NM_YES;
	if (number)
		return w->number == 1 ? NM_YES : NM_NO;
	if (type != '$' && type != '=')
		return NM_YES;
	number = w->number;
	if (number >= NM_WINDOW - 2 || next + number + 2 > NM_WINDOW)
		return any && nm_rest(w) >= (__u32)next ? NM_RESP_LARGE : NM_NO;
	return NM_MATCH(w, next + number, "\r\n");
}

/* Errors that only Redis has. */
__noinline int nm_redis_error(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length = nm_run(id, 1, 'A', 'Z') - 1;
	__u64 word;

	if (!w || length > 15 || nm_byte(w, length + 1) != ' ')
		return NM_NO;
	word = nm_word(w, 1, length, 0);
	return NM_IS("NOAUTH") || NM_IS("DENIED") || NM_IS("WRONGTYPE") || NM_IS("LOADING") || NM_IS("NOPERM") ||
	       NM_IS("WRONGPASS") || NM_IS("NOPROTO") || NM_IS("MISCONF") || NM_IS("READONLY") || NM_IS("CLUSTERDOWN") ||
	       NM_IS("MASTERDOWN") || NM_IS("NOSCRIPT");
}

/*
 * An inline command, in either case, as people and health checks send it. Other protocols have such lines too, so the answer or the
 * port must confirm Redis. Commands that POP3 has as well need the port, because its answers look the same.
 */
__noinline int nm_redis_inline(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length;
	__u64 word;
	int end;

	if (!w || !nm_from_client(w))
		return NM_NO;
	length = nm_run(id, 0, 'A', 'z');
	if (length < 3 || length > 9)
		return length >= w->s.have ? NM_MORE : NM_NO;
	if (length >= w->s.have)
		return NM_MORE;
	if (nm_byte(w, length) > ' ')
		return NM_NO;
	end = nm_line(id, length);
	if (end == NM_NO || end == NM_MORE)
		return end;
	word = nm_word(w, 0, length, 0x2020202020202020);
	if (NM_IS("auth") || NM_IS("quit"))
		return w->p.dport == 6379;
	return NM_IS("ping") || NM_IS("get") || NM_IS("set") || NM_IS("del") || NM_IS("incr") || NM_IS("decr") || NM_IS("info") ||
	       NM_IS("role") || NM_IS("exists") || NM_IS("expire") || NM_IS("ttl") || NM_IS("keys") || NM_IS("scan") ||
	       NM_IS("mget") || NM_IS("mset") || NM_IS("hget") || NM_IS("hset") || NM_IS("hgetall") || NM_IS("lpush") ||
	       NM_IS("rpush") || NM_IS("lpop") || NM_IS("rpop") || NM_IS("lrange") || NM_IS("llen") || NM_IS("sadd") ||
	       NM_IS("smembers") || NM_IS("zadd") || NM_IS("zrange") || NM_IS("select") || NM_IS("dbsize") ||
	       NM_IS("flushall") || NM_IS("flushdb") || NM_IS("config") || NM_IS("client") || NM_IS("cluster") ||
	       NM_IS("command") || NM_IS("echo") || NM_IS("hello") || NM_IS("setex") || NM_IS("setnx") || NM_IS("append") ||
	       NM_IS("strlen") || NM_IS("type") || NM_IS("incrby") || NM_IS("publish") || NM_IS("multi") ||
	       NM_IS("monitor") || NM_IS("time") || NM_IS("lastsave") || NM_IS("sentinel") || NM_IS("memory") ||
	       NM_IS("subscribe") || NM_IS("replicaof") || NM_IS("slaveof") || NM_IS("sync") || NM_IS("psync");
}

/* A reply of one line. Other protocols have such lines too, except for a few words. */
__noinline int nm_redis_line(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 sign;
	int is;

	if (!w)
		return NM_NO;
	switch (nm_byte(w, 0)) {
	case '-':
		is = nm_line(id, 1);
		if (is == NM_NO || is == NM_MORE)
			return is;
		if (nm_redis_error(id))
			return NM_APP_REDIS;
		break;
	case '+':
		if (NM_MATCH(w, 0, "+PONG\r\n") == NM_YES || NM_MATCH(w, 0, "+FULLRESYNC ") == NM_YES)
			return NM_APP_REDIS;
		/* POP3 greets with +OK. */
		is = nm_line(id, 1);
		break;
	case ':':
	case '$': /* null, or more than the window holds */
	case '*': /* null, or empty */
		sign = nm_byte(w, 1) == '-';
		is = nm_number_line(id, 1 + sign);
		break;
	case '_':
		is = NM_MATCH(w, 1, "\r\n");
		break;
	case '#':
		is = nm_byte(w, 1) == 't' || nm_byte(w, 1) == 'f' ? NM_MATCH(w, 2, "\r\n") : w->s.have < 2 ? NM_MORE : NM_NO;
		break;
	case ',':
	case '(':
		is = nm_line(id, 1);
		if (nm_run(id, 1, '+', '9') < 2 || nm_byte(w, 1) == '/')
			return w->s.have < 2 ? NM_MORE : NM_NO;
		break;
	default:
		return NM_NO;
	}
	if (is == NM_NO || is == NM_MORE)
		return is;
	/* A server ends its lines with CR LF. */
	if ((nm_byte(w, 0) == '+' || nm_byte(w, 0) == '-' || nm_byte(w, 0) == ',' || nm_byte(w, 0) == '(') && nm_byte(w, is) != '\r')
		return NM_NO;
	w->s.weak |= NM_APP_BIT(NM_APP_REDIS) | NM_REPLY;
	return NM_NO;
}

__noinline int nm_detect_redis(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	int next, is;
	__u32 type;

	if (!w || !w->s.have)
		return NM_NO;
	type = nm_byte(w, 0);
	if ((type | 0x20) >= 'a' && (type | 0x20) <= 'z') {
		is = nm_redis_inline(id);
		if (is == NM_YES)
			w->s.weak |= NM_APP_BIT(NM_APP_REDIS) | NM_REQUEST;
		return is == NM_MORE ? NM_MORE : NM_NO;
	}
	switch (type) {
	case '*': /* commands are arrays of bulk strings; replies may also be maps, sets, pushes and attributes (RESP 3) */
	case '%':
	case '~':
	case '>':
	case '|':
		if (type != '*' && !nm_from_server(w))
			return NM_NO;
		next = nm_number_line(id, 1);
		if (next == NM_MORE)
			return next;
		if (next == NM_NO || !w->number)
			return type == '*' && nm_from_server(w) ? nm_redis_line(id) : NM_NO;
		is = nm_resp_element(id, next, nm_from_server(w));
		break;
	case '$': /* a reply */
	case '=':
	case '!':
		if (!nm_from_server(w))
			return NM_NO;
		if (NM_MATCH(w, 1, "-1\r\n") != NM_NO)
			return nm_redis_line(id);
		if (type == '!') {
			next = nm_number_line(id, 1);
			if (next == NM_NO || next == NM_MORE)
				return next;
			is = w->number < 200 ? NM_MATCH(w, next + w->number, "\r\n") : NM_NO;
			break;
		}
		is = nm_resp_element(id, 0, 1);
		break;
	default:
		return nm_from_server(w) ? nm_redis_line(id) : NM_NO;
	}
	if (is == NM_RESP_LARGE) {
		w->s.weak |= NM_APP_BIT(NM_APP_REDIS) | NM_REPLY;
		return NM_NO;
	}
	return is == NM_YES ? NM_APP_REDIS : is;
}
