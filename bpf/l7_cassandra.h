/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Cassandra and compatible servers: the CQL native protocol. */
#pragma once

/* Does the string at `at`, after its length of two bytes, consist of capitals and _, like the option names of STARTUP? */
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
 * The native protocol, versions 3 to 6 (the later ones use their new framing only after STARTUP): the first request is OPTIONS or
 * STARTUP. A frame without a body could be coincidence.
 */
__noinline int nm_detect_cassandra(__u32 id)
{
	struct nm_l7 *w = nm_l7_of(id);
	__u32 version, opcode, length, rest;
	int is;

	if (!w || !w->s.have)
		return NM_NO;
	version = nm_byte(w, 0);
	/* 65 and 66 are DataStax versions, which its drivers try first. */
	if (((version & 0x7f) < 3 || (version & 0x7f) > 6) && (version & 0x7f) != 65 && (version & 0x7f) != 66)
		return NM_NO;
	if (version & 0x80 ? !nm_from_server(w) : !nm_from_client(w))
		return NM_NO;
	if (w->s.have < 9)
		return NM_MORE;
	opcode = nm_byte(w, 4);
	length = nm_be32(w, 5);
	rest = nm_rest(w);
	/* Nothing is compressed before STARTUP is answered; a client's stream number is not negative. */
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
		case 0x03: /* AUTHENTICATE: a class, nothing else */
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
