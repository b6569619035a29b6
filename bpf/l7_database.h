/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Databases: MySQL, PostgreSQL, MongoDB, Cassandra. */
#pragma once

/* The first packet of a MySQL or MariaDB server: a greeting of protocol 10, or the error that comes in its place. */
__noinline int nm_detect_mysql(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length, end, rest, error;

	if (!w || !nm_from_server(w))
		return NM_NO;
	rest = nm_rest(w);
	if (w->s.have < 4)
		return NM_MORE;
	length = nm_le32(w, 0); /* three bytes, and the packet's number: 0 */
	if (length < 8 || length > 512 || length + 4 < rest)
		return NM_NO;
	if (w->s.have < 5)
		return NM_MORE;
	if (nm_byte(w, 4) == 0xff) {
		if (w->s.have < 7)
			return NM_MORE;
		error = nm_byte(w, 5) | nm_byte(w, 6) << 8;
		if (error < 1000 || error >= 5000)
			return NM_NO;
		if (length + 4 > rest)
			return NM_MORE;
		return length + 4 <= NM_WINDOW && nm_run(id, 7, ' ', '~') == length + 4 ? NM_APP_MYSQL : NM_NO;
	}
	if (nm_byte(w, 4) != 10)
		return NM_NO;
	end = nm_run(id, 5, '!', '~');
	if (end > 128)
		return NM_NO;
	if (w->s.have < end + 28)
		return NM_MORE;
	/* Version, NUL, thread, 8 bytes of salt, NUL, capabilities, character set, status, capabilities, salt's length, zeros. */
	if (end < 8 || nm_byte(w, 5) < '3' || nm_byte(w, 5) > '9' || nm_byte(w, end) || nm_byte(w, end + 13))
		return NM_NO;
	if (nm_byte(w, end + 21) > 64 || nm_be32(w, end + 22) || nm_be16(w, end + 26) || length < end + 28)
		return NM_NO;
	return length + 4 == rest ? NM_APP_MYSQL : NM_MORE;
}

#define NM_PG_CANCEL 80877102
#define NM_PG_SSL 80877103
#define NM_PG_GSS 80877104

/* Is there a parameter "user" in the startup message? Names and values take turns. */
__noinline int nm_pg_user(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 at = 8, end;

	if (!w)
		return NM_NO;
	for (int i = 0; i < 16; i++) {
		end = nm_run(id, at, ' ', 255);
		if (end == at || end >= w->s.have || nm_byte(w, end))
			return NM_NO;
		if (NM_MATCH(w, at, "user\0") == NM_YES)
			return nm_byte(w, at + 5) > ' ' ? NM_YES : NM_NO;
		at = nm_run(id, end + 1, ' ', 255) + 1;
		if (at > w->s.have || nm_byte(w, at - 1))
			return NM_NO;
	}
	return NM_NO;
}

__noinline int nm_detect_postgres(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length, rest;

	if (!w || !w->s.have)
		return NM_NO;
	rest = nm_rest(w);
	/* The answer to SSLRequest and GSSENCRequest is a byte. */
	if (nm_from_server(w) && rest == 1 && (nm_byte(w, 0) == 'S' || nm_byte(w, 0) == 'N' || nm_byte(w, 0) == 'G')) {
		w->s.weak |= NM_APP_BIT(NM_APP_POSTGRES) | NM_REPLY;
		return NM_NO;
	}
	if (!nm_from_client(w) || nm_byte(w, 0))
		return NM_NO;
	if (w->s.have < 8)
		return NM_MORE;
	length = nm_be32(w, 0);
	switch (nm_be32(w, 4)) {
	case NM_PG_SSL:
	case NM_PG_GSS:
		if (length != 8 || rest != 8)
			return NM_NO;
		w->s.weak |= NM_APP_BIT(NM_APP_POSTGRES) | NM_REQUEST; /* so that the answer is known for one */
		return NM_APP_POSTGRES;
	case NM_PG_CANCEL:
		return length == 16 && rest == 16 ? NM_APP_POSTGRES : length == 16 && rest < 16 ? NM_MORE : NM_NO;
	case 0x30000:
	case 0x30002:
		if (length < 16 || length > 10000 || rest > length)
			return NM_NO;
		if (w->s.have < length && w->s.have < NM_WINDOW)
			return NM_MORE;
		return (w->s.have < length || !nm_byte(w, length - 1)) && nm_pg_user(id) == NM_YES ? NM_APP_POSTGRES : NM_NO;
	}
	return NM_NO;
}

/* The BSON document at `at`, with at most `room` bytes: its length, and the type and name of its first element. */
__noinline int nm_bson(__u32 id, __u32 at, __u32 room)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length, type;

	if (!w)
		return NM_NO;
	if (w->s.have < at + 6)
		return NM_MORE;
	length = nm_le32(w, at);
	type = nm_byte(w, at + 4);
	if (length < 5 || length > room)
		return NM_NO;
	if (length == 5)
		return type ? NM_NO : NM_YES;
	if (!type || (type > 0x13 && type != 0x7f && type != 0xff))
		return NM_NO;
	/* Names begin with a letter, a digit, _ or $. */
	return nm_byte(w, at + 5) >= '$' && nm_byte(w, at + 5) <= 'z' && length >= 8 ? NM_YES : NM_NO;
}

#define NM_MONGO_MOST 48000000

__noinline int nm_detect_mongodb(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length, answer, flags, at, rest;
	int is;

	if (!w)
		return NM_NO;
	if (w->s.have < 16)
		return !w->s.have || w->s.have < 4 || nm_byte(w, 3) < 3 ? NM_MORE : NM_NO;
	length = nm_le32(w, 0);
	answer = nm_le32(w, 8);
	rest = nm_rest(w);
	if (length < 21 || length > NM_MONGO_MOST || length < rest)
		return NM_NO;
	/* Who answers is no client. */
	if (answer ? !nm_from_server(w) : !nm_from_client(w))
		return NM_NO;
	if (length > rest && w->middle)
		return NM_NO;
	switch (nm_le32(w, 12)) {
	case 2013: /* OP_MSG: flags, then a section, which is a document or a named row of them */
		if (w->s.have < 26)
			return NM_MORE;
		flags = nm_le32(w, 16);
		if (flags & ~0x10003u)
			return NM_NO;
		if (!nm_byte(w, 20))
			is = nm_bson(id, 21, length - 21);
		else if (nm_byte(w, 20) == 1)
			is = nm_le32(w, 21) <= length - 21 && nm_run(id, 25, 'a', 'z') > 25 ? NM_YES : NM_NO;
		else
			is = NM_NO;
		break;
	case 2004: /* OP_QUERY: flags, a collection's full name, skip, return, document */
		if (answer || w->s.have < 20)
			return answer ? NM_NO : NM_MORE;
		if (nm_le32(w, 16) & ~0xfeu)
			return NM_NO;
		at = nm_run(id, 20, '$', 'z');
		if (at > 148)
			return NM_NO;
		if (at >= w->s.have)
			return NM_MORE;
		is = nm_byte(w, at) || at < 23 ? NM_NO : nm_bson(id, at + 9, length - (at + 9));
		break;
	case 1: /* OP_REPLY: flags, cursor, first, count, documents */
		if (!answer)
			return NM_NO;
		if (w->s.have < 36)
			return NM_MORE;
		if (length < 36 || nm_le32(w, 16) & ~15u || nm_le32(w, 32) > 1000000)
			return NM_NO;
		is = nm_le32(w, 32) ? nm_bson(id, 36, length - 36) : length == 36;
		break;
	case 2012: /* OP_COMPRESSED: opcode, size, compressor */
		if (w->s.have < 25)
			return NM_MORE;
		flags = nm_le32(w, 16);
		if ((flags != 2013 && flags != 2004 && flags != 1) || !nm_le32(w, 20) || nm_le32(w, 20) > NM_MONGO_MOST)
			return NM_NO;
		is = nm_byte(w, 24) <= 3 && length > 25;
		break;
	default:
		return NM_NO;
	}
	return is == NM_YES ? NM_APP_MONGODB : is;
}

/* Is the string that has its length, of two bytes, at `at` of capitals and _, as the names of STARTUP's options are? */
__noinline int nm_cql_name(__u32 id, __u32 at)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length;

	if (!w)
		return NM_NO;
	if (w->s.have < at + 2)
		return NM_MORE;
	length = nm_be16(w, at);
	if (length < 5 || length > 32)
		return NM_NO;
	if (w->s.have < at + 2 + length)
		return NM_MORE;
	return nm_run(id, at + 2, 'A', '_') >= at + 2 + length;
}

/*
 * The native protocol, versions 3 to 5 (which frames its messages anew only after STARTUP): the first request is OPTIONS or
 * STARTUP. A frame without a body could be chance.
 */
__noinline int nm_detect_cassandra(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 version, opcode, length, rest;
	int is;

	if (!w || !w->s.have)
		return NM_NO;
	version = nm_byte(w, 0);
	if ((version & 0x7f) < 3 || (version & 0x7f) > 5)
		return NM_NO;
	if (version & 0x80 ? !nm_from_server(w) : !nm_from_client(w))
		return NM_NO;
	if (w->s.have < 9)
		return NM_MORE;
	opcode = nm_byte(w, 4);
	length = nm_be32(w, 5);
	rest = nm_rest(w);
	/* Nothing is compressed before STARTUP was answered; a client's stream is not negative. */
	if (nm_byte(w, 1) & ~0x1eu || nm_byte(w, 2) & 0x80 || length > 65536 || length + 9 < rest)
		return NM_NO;
	if ((version == 0x80 + (version & 0x7f) ? opcode == 0x02 : opcode == 0x05) && !length) {
		w->s.weak |= NM_APP_BIT(NM_APP_CASSANDRA) | (version & 0x80 ? NM_REPLY : NM_REQUEST);
		return NM_NO;
	}
	if (length + 9 > rest)
		return rest < 4096 ? NM_MORE : NM_NO;
	if (version & 0x80) {
		switch (opcode) {
		case 0x06: /* SUPPORTED: options, with lists of values */
			is = nm_be16(w, 9) >= 1 && nm_be16(w, 9) <= 32 ? nm_cql_name(id, 11) : NM_NO;
			break;
		case 0x03: /* AUTHENTICATE: a class, and no more */
			is = w->s.have >= 12 && nm_be16(w, 9) + 2 == length && nm_run(id, 11, '$', 'z') == 9 + length;
			break;
		case 0x00: /* ERROR: a code, a message */
			is = w->s.have >= 16 && nm_be16(w, 9) <= 0x25 && nm_be16(w, 13) + 6 == length && length > 6 &&
			     nm_run(id, 15, ' ', '~') >= (length + 9 < NM_WINDOW ? length + 9 : NM_WINDOW);
			break;
		default:
			return NM_NO;
		}
	} else {
		/* STARTUP: pairs, one of which is CQL_VERSION. */
		is = opcode == 0x01 && nm_be16(w, 9) >= 1 && nm_be16(w, 9) <= 16 ? nm_cql_name(id, 11) : NM_NO;
	}
	return is == NM_YES ? NM_APP_CASSANDRA : is;
}
