/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Databases: MySQL, PostgreSQL, MongoDB. */
#pragma once

/*
 * The first packet of a client: HandshakeResponse41, or the beginning of it, which requests TLS. Its fields: capabilities, largest
 * packet, character set, zeros (the last four bytes hold capabilities of MariaDB).
 */
__noinline int nm_mysql_client(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length, rest, capabilities;

	if (!w)
		return NM_NO;
	rest = nm_rest(w);
	if (w->s.have >= 4 && nm_byte(w, 3) != 1)
		return NM_NO;
	if (w->s.have < 36)
		return w->s.have < 3 || !nm_byte(w, 2) ? NM_MORE : NM_NO;
	length = nm_le32(w, 0) & 0xffffff;
	capabilities = nm_le32(w, 4);
	if (length < 32 || length > 4096 || !(capabilities & 0x200) || nm_run(id, 13, 0, 0) < 32)
		return NM_NO;
	if (capabilities & 1 && nm_be32(w, 32))
		return NM_NO;
	if (length == 32) {
		if (!(capabilities & 0x800))
			return NM_NO;
		if (rest == 36)
			return NM_APP_MYSQL;
		if (rest < 38)
			return NM_MORE;
		/* Some clients send the ClientHello in the same packet. */
		return nm_be16(w, 36) == 0x1603 ? NM_APP_MYSQL | NM_BECAME(NM_APP_TLS) : NM_NO;
	}
	/* A user name, then what the capabilities call for. */
	if (length + 4 > rest)
		return NM_MORE;
	return length + 4 == rest && nm_run(id, 36, ' ', 255) < w->s.have ? NM_APP_MYSQL : NM_NO;
}

/*
 * The first packet of a server (MySQL, MariaDB or a proxy for them): a greeting of protocol 10, or an error instead. The version is
 * any string that is configured.
 */
__noinline int nm_detect_mysql(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 length, end, rest, error;

	if (!w)
		return NM_NO;
	if (w->p.client == 1)
		return nm_mysql_client(id);
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
		return length + 4 <= NM_WINDOW && nm_run(id, 7, ' ', 255) == length + 4 ? NM_APP_MYSQL : NM_NO;
	}
	if (nm_byte(w, 4) != 10)
		return NM_NO;
	end = nm_run(id, 5, ' ', '~');
	if (end > 128)
		return NM_NO;
	if (w->s.have < end + 28)
		return NM_MORE;
	/* Version, NUL, thread, 8 bytes of salt, NUL, capabilities, character set, status, capabilities, salt's length, zeros. */
	if (end < 7 || nm_byte(w, end) || nm_byte(w, end + 13))
		return NM_NO;
	if (nm_byte(w, end + 21) > 64 || nm_be32(w, end + 22) || nm_be16(w, end + 26) || length < end + 28)
		return NM_NO;
	return length + 4 == rest ? NM_APP_MYSQL : NM_MORE;
}

#define NM_PG_CANCEL 80877102
#define NM_PG_SSL 80877103
#define NM_PG_GSS 80877104

/* Is there a parameter "user" in the startup message? Names and values alternate. */
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
	/* The answer to SSLRequest and GSSENCRequest is one byte. */
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
		w->s.weak |= NM_APP_BIT(NM_APP_POSTGRES) | NM_REQUEST; /* so that the answer is recognised */
		return NM_APP_POSTGRES;
	case NM_PG_CANCEL:
		/* The key is longer from 3.2 on. */
		if (length < 16 || length > 268 || rest > length)
			return NM_NO;
		return length == rest ? NM_APP_POSTGRES : NM_MORE;
	case 0x30000:
	case 0x30001:
	case 0x30002:
	case 0x3270f: /* 3.9999, sent to test whether servers negotiate */
		if (length < 16 || length > 10000 || rest > length)
			return NM_NO;
		if (w->s.have < length && w->s.have < NM_WINDOW)
			return NM_MORE;
		return (w->s.have < length || !nm_byte(w, length - 1)) && nm_pg_user(id) == NM_YES ? NM_APP_POSTGRES : NM_NO;
	}
	return NM_NO;
}

/* Checks the BSON document at `at`, of at most `room` bytes: its length, and the type and name of its first element. */
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
	/* Only a server answers. */
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
