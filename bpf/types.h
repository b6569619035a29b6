/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What the programs store and user space reads: one layout, exported to Rust by the skeleton. */
#pragma once

#include "numbers.h"

/* Where a packet was seen, from the point of view of the interface. */
enum nm_hook {
	NM_INGRESS = 0,
	NM_EGRESS = 1,
	NM_HOOKS = 2,
};

/* One direction of a flow as seen at one hook. Addresses and ports are in network byte order. */
struct nm_key4 {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u32 ifindex; /* never 0: 0 marks an empty slot */
	__u8 protocol;
	__u8 hook;
	__u16 vlan;       /* outer VLAN id, 0: none */
	__u16 inner_vlan; /* QinQ: the second tag's id, 0: none */
	__u16 pad;
};

struct nm_key6 {
	__u8 saddr[16];
	__u8 daddr[16];
	__be16 sport;
	__be16 dport;
	__u32 ifindex;
	__u8 protocol;
	__u8 hook;
	__u16 vlan;
	__u16 inner_vlan;
	__u16 pad;
};

/* Kinds of records. A new one needs a number here, a struct that starts with a head, and an arm in `Event::decode` (src/bpf/event.rs). */
enum nm_kind {
	NM_KIND_FLOW4 = 1,  /* struct nm_entry4 */
	NM_KIND_FLOW6 = 2,  /* struct nm_entry6 */
	NM_KIND_NOTED4 = 3, /* struct nm_noted4 */
	NM_KIND_NOTED6 = 4, /* struct nm_noted6 */
	NM_KIND_TRACED = 5, /* struct nm_traced */
};

/* How every record in a ring starts. */
struct nm_head {
	__u8 kind;    /* enum nm_kind */
	__u8 version; /* of the layout of this kind: NM_FLOW_VERSION and so on */
	__u16 length; /* size of the record in bytes, including this head */
};

#define NM_HEAD(what, of, bytes) ((struct nm_head){ .kind = (what), .version = (of), .length = (bytes) })

/* Why a record was written. */
enum nm_cause {
	NM_DISPLACED = 0, /* another flow needed the slot */
	NM_URGENT = 1,    /* RST or ICMP error: user space should know at once */
	NM_SWEPT = 2,     /* idle, new or due */
	NM_BYPASSED = 3,  /* the cache was in use on this CPU: the packet got a record of its own */
	NM_QUOTED = 4,    /* no packet: an ICMP error quotes one with this key; `icmp` is the type and code of the error */
	NM_STAMPED = 0x20,  /* flag: `probed` and `icmp` are the low and high half of the time of the latest FIN or RST */
	NM_SHORT = 0x40,    /* flag: the latest TCP data are no longer than NM_ALERT */
	NM_UNJUDGED = 0x80, /* flag: whether the first segment was a retransmission could not be judged */
};

/* What only the cache needs. A record has its head in the same place. */
struct nm_kept {
	__u16 window; /* TCP: as announced, unscaled */
	__u16 worth;  /* packets of earlier records, halved with each: keeps busy flows in the cache; 0: never reported */
};

/* What was seen of a key since its last record, and what is needed to judge its next packet. */
struct nm_delta {
	union {
		struct nm_head head; /* in a record */
		struct nm_kept kept; /* in a cache entry */
	};
	__u32 packets; /* on the wire: each segment of a GSO or GRO packet counts */
	__u64 bytes;   /* on the wire from the link-layer header on, repeated headers of segments included */
	__u32 first;   /* low half of jiffies64; if there are no packets: number of sweeps that found none */
	__u32 last;    /* low half of jiffies64 */
	__u32 seq_end; /* TCP: one past the highest sequence number sent */
	__u32 ack;     /* TCP: the highest acknowledgement number sent */
	__u16 probed;  /* time of the latest RTT probe, in units of nm_probe_every */
	__u16 icmp;    /* type and code (lower byte) of the latest packet; TCP: time of the latest RTT sample, in units as `probed` */
	__u8 tcp_flags; /* OR of the flags byte */
	__u8 state;   /* enum nm_state */
	__u8 cause;   /* enum nm_cause; in a cache entry only the flags */
	__u8 looks;   /* payloads that may still be looked at for the application protocol */
};

/* Bits of `nm_delta.state`. */
enum nm_state {
	NM_SYN = 0x01,     /* SYN without ACK, because `tcp_flags` alone does not show who opened; SCTP: INIT */
	NM_SYN_ACK = 0x02, /* SYN with ACK; SCTP: INIT ACK */
	NM_OPENING = NM_SYN | NM_SYN_ACK,
	/* The same bits in other protocols. */
	NM_FIRST = 0x01,     /* the other end had not sent before, as far back as is remembered */
	NM_BROADCAST = 0x02, /* a frame was sent to the broadcast address */
	NM_URGED = 0x04,     /* an urgent record has been written; there is only one */
	NM_NOTED = 0x08,     /* has facts */
	NM_TRACKED = 0x10,   /* TCP: `seq_end` is known */
	NM_ACKED = 0x20,     /* TCP: `ack` is known */
	NM_HEARD = 0x40,     /* the other end has sent since this one sent last */
	NM_SHAKING = 0x80,   /* TCP: opened, but the ACK that ends the handshake has not been seen */
};

/* The delta comes first, so that it can be found without knowing the family and a record starts with its head. */
struct nm_entry4 {
	struct nm_delta delta;
	struct nm_key4 key;
};

struct nm_entry6 {
	struct nm_delta delta;
	struct nm_key6 key;
};

struct nm_set4 {
	struct nm_entry4 way[NM_WAYS];
};

struct nm_set6 {
	struct nm_entry6 way[NM_WAYS];
};

struct nm_tally {
	__u64 packets;
	__u64 bytes;
};

/* The source of precise times. */
enum nm_clock_source {
	NM_CLOCK_KERNEL = 0,
	NM_CLOCK_HARDWARE = 1, /* the timestamp of the NIC if there is one, else as above */
	NM_CLOCK_CAPTURE = 2,  /* skb->tstamp; jiffies are its nanoseconds */
};

/* Application protocols, in `nm_facts.app`. Their display names are in src/bpf/app.rs. */
enum nm_app {
	NM_APP_UNDECIDED = 0, /* more payload may decide */
	NM_APP_HTTP = 1,      /* HTTP/1.0 and 1.1 */
	NM_APP_HTTP2 = 2,
	NM_APP_GRPC = 3,
	NM_APP_TLS = 4,
	NM_APP_DNS = 5,
	NM_APP_MYSQL = 6,
	NM_APP_POSTGRES = 7,
	NM_APP_REDIS = 8,
	NM_APP_KAFKA = 9,
	NM_APP_MONGODB = 10,
	NM_APP_MEMCACHED = 11,
	NM_APP_AMQP = 12,
	NM_APP_NATS = 13,
	NM_APP_MQTT = 14,
	NM_APP_CASSANDRA = 15,
	NM_APP_SSH = 16,
	NM_APP_SMTP = 17,
	NM_APP_QUIC = 18,
	/* Tunnels, recognised by their headers; not in nm_apps. */
	NM_APP_VXLAN = 19,
	NM_APP_GENEVE = 20,
	NM_APP_GRE = 21,
	NM_APP_IPIP = 22, /* IPv4 in IP */
	NM_APP_SIT = 23,  /* IPv6 in IP */
	NM_APP_WEBSOCKET = 24, /* HTTP switched to it: not looked for by itself */
	NM_APP_UNKNOWN = 255, /* none of the above */
};

/* What a sample measures; "the sender" is the sender of the entry. */
enum nm_sample {
	NM_HANDSHAKE_SERVER = 1, /* SYN to the sender's SYN-ACK */
	NM_HANDSHAKE_CLIENT = 2, /* SYN-ACK to the sender's ACK */
	NM_CONNECT = 3,          /* the sender's first SYN to its ACK; the bits from NM_OPENED_SHIFT on are the time of that SYN */
	NM_RTT = 4,              /* data from the other end to the sender's ACK */
	NM_RTT_LONE = 5,         /* the same, but nothing required an immediate ACK: it may have been delayed */
	NM_RESPONSE = 6,         /* last byte from the other end to the sender's first */
	NM_ECHO = 7,             /* ICMP echo request to the sender's reply */
	NM_RTT_WAITED = 8,       /* as NM_RTT, but the ACK waited for data or a FIN it came with, or for data sent at an unknown time */
	NM_OPENED = 9,           /* no duration, but when the other end sent the first SYN, which the sender refuses (NM_OPENED_SHIFT) */
};

/* Rare facts: kept apart from the entries, one for several sets, and written with the record of the entry that owns them. */
struct nm_facts {
	__u64 sample[NM_SAMPLES]; /* enum nm_sample above NM_KIND_SHIFT, nanoseconds below */
	__u32 hole_start; /* sequence numbers that were skipped and may still arrive */
	__u32 hole_end;
	__u32 hole_at;    /* low half of jiffies64 */
	__u16 retransmits;
	__u16 out_of_order;
	__u16 duplicate_acks;
	__u16 zero_windows;
	__u16 resets;
	__u8 samples; /* in use */
	__u8 app;     /* enum nm_app */
	__u8 app_version; /* TLS: minor version, 1 to 4 for 1.0 to 1.3, 0: not known; DNS: NM_ASKS, NM_ANSWERS */
	__u8 owner;   /* the owner: 1 + number of the entry among those that share the facts; 0: none */
	__u8 app_next; /* enum nm_app: what the same sender changed to after `app` */
	__u8 pad;
	__u32 check;  /* nm_check of the owner's key: another entry may have replaced it */
};

/* An entry with its facts, combined to be written. */
struct nm_noted4 {
	struct nm_entry4 entry;
	struct nm_facts facts;
};

struct nm_noted6 {
	struct nm_entry6 entry;
	struct nm_facts facts;
};

_Static_assert(sizeof(struct nm_head) == 4 && sizeof(struct nm_kept) == sizeof(struct nm_head), "a head takes the place of nm_kept");
_Static_assert(sizeof(struct nm_entry4) == 64 && sizeof(struct nm_entry6) == 88, "as in src/bpf/event.rs");
_Static_assert(sizeof(struct nm_noted4) == 128 && sizeof(struct nm_noted6) == 152, "as in src/bpf/event.rs");

/*
 * A timestamp in one word, so that it is read atomically: tag of the connection (16 bits), which clock (1), nanoseconds (47, which
 * wrap after 39 hours). 0: none.
 */
#define NM_STAMP_HARDWARE (1ull << 47)
#define NM_STAMP_NS (NM_STAMP_HARDWARE - 1)

/*
 * Joins the two directions of a connection as seen at one interface. Shared by all CPUs without locks: a CPU that finds another
 * tag, or a stamp of another connection, loses a sample. Sides are 0 and 1, ordered by their hashes.
 */
struct nm_pair {
	__u64 tag;           /* of the connection; 0: free */
	__u64 probe[2];      /* per side: end of the segment in the upper half, low half of its stamp below */
	__u64 probe_time[2]; /* stamp; valid only if its low half is that in `probe` */
	__u32 touched;       /* in units of nm_probe_every */
	__u8 flags;          /* NM_PAIR_* */
	__u8 hardware;       /* one bit per side: its packets carry the NIC's timestamp */
	__u8 looked;         /* one bit per side: its application protocol is settled; NM_LOOKED_NEXT(bit): reported, but may change */
	__u8 isn_known;      /* one bit per side: `isn` is known; UDP: it has sent */
	__u32 isn[2];
	__u32 connect;       /* nanoseconds that the handshake took; 0: not known */
	__u16 segment[2];    /* per side: size of its probe's segments, with NM_SEGMENT_* */
	/* The second cache line holds what changes with each turn of a conversation. */
	__u64 opened;        /* stamps: the first SYN, the SYN-ACK */
	__u64 answered;
	__u64 data[2];       /* stamps: when the side last sent, until the other has answered */
	__u32 echo[2];       /* ICMP: sequence number of the request in `data` */
	__u64 later[2];      /* per side, after its probe: end of the segment in the upper half, nanoseconds since the probe below */
	__u64 align[1];
};

#define NM_LOOKED_NEXT(bit) ((bit) << 2)

#define NM_SEGMENT_SHIFT 2
#define NM_SEGMENT_PUSHED 1 /* the probe ends what the application wrote: the next data may come at any time */
#define NM_SEGMENT_MANY 2   /* the probe was several segments: those are acknowledged at once */

#define NM_PAIR_CLIENT1 0x01 /* side 1 opened the connection, else side 0 */
#define NM_PAIR_OPENED 0x02  /* the handshake was seen: NM_PAIR_CLIENT1 is valid */
#define NM_PAIR_RETRIED 0x04 /* SYN repeated: it is not known which one was answered */
#define NM_PAIR_REPEATED 0x08 /* SYN-ACK repeated */
#define NM_PAIR_DONE 0x10    /* handshake over */
#define NM_PAIR_CLOSED 0x20  /* FIN or RST seen: another connection may take the slot */
#define NM_PAIR_REFUSED 0x40 /* the SYN had data that the SYN-ACK does not acknowledge: they will be sent again */
#define NM_PAIR_HTTP2 0x80   /* speaks HTTP/2: not every payload is a request or a response */

/* Packets that belong to no flow. */
enum nm_ignored {
	NM_NOT_IP = 0,
	NM_MALFORMED = 1,
	NM_IGNORED = 2,
};

/* The books of one interface on one CPU: seen + inner = recorded + ignored + left out + lost + still cached. */
struct nm_books {
	__u32 ifindex; /* 0: slot not in use */
	__u32 pad;
	struct nm_tally seen[NM_HOOKS];
	struct nm_tally ignored[NM_IGNORED];
	struct nm_tally lost;  /* their record did not fit into its ring */
	struct nm_tally inner; /* found inside tunnel packets */
	__u64 whole[NM_HOOKS]; /* packets of `seen` as the kernel passes them: not cut into segments */
	struct nm_tally left_out; /* of flows outside the sample */
	__u64 align[7];        /* up to whole cache lines */
};

/* Which books are in use, so that readers can skip the others. */
struct nm_books_used {
	__u8 slot[NM_INTERFACES];
};

/* The state of one CPU, in whole cache lines. */
struct nm_cpu {
	__u32 busy; /* the cache of this CPU is in use: an interrupting packet or sweep must not touch it */
	__u32 sample;     /* 2^32 times the share of flows to track, set by user space at any time; 0: all */
	__u64 live4; /* one bit per group of sets: it may hold entries */
	__u64 live6;
	__u64 records;
	__u64 records_lost; /* the ring was full and there was nowhere to keep their content */
	__u64 jiffies; /* both clocks at the latest sweep, to calibrate jiffies */
	__u64 monotonic_ns;
	__u64 slice_start; /* `records` at the start of the current run of the sweep */
	__u64 unpaired;    /* packets not measured because another connection held the slot in the pairing table */
	__u64 unsampled;   /* measured times dropped because a record had just been written or the ring was full */
	__u64 unquoted;    /* quotes of ICMP errors dropped: too many at once, or the ring was full */
	__u64 stamps[2];   /* if nm_clock is hardware: stamps taken from the kernel, and from the NIC */
	__u64 quotes_at;   /* tick of the latest quote; `quotes` counts those in it */
	__u32 quotes;
	__u32 slice_sets;  /* sets examined in the current run of the sweep */
	struct nm_entry6 scratch; /* a quote being read; this, `packet` and the batches belong to the holder of `busy` */
	__u64 packet[16];         /* as struct nm_packet: the current packet */
	__u64 inner[16];          /* as struct nm_packet: found inside the current packet; belongs to the packet path */
	__u32 unwoken[NM_MAX_RINGS]; /* records since this CPU last woke the ring's reader */
	__u32 batched; /* records in the batches of this CPU */
	__u32 pad;
	__u64 align[5];
};

/* Records of one CPU for one ring, to be written together. */
struct nm_batch {
	__u32 used; /* bytes */
	__u32 records;
	__u64 data[(NM_BATCH_FULL + sizeof(struct nm_noted6)) / sizeof(__u64)];
};

/* The ports of a fragmented datagram, for its fragments without a transport header. */
struct nm_fragment {
	/* Tag (24 bits), protocol (8), both ports (32; for ICMP identifier, type and code): one word, so that it is read atomically. */
	__u64 word;
	__u32 seen; /* as nm_packet.now */
	__u32 more; /* 20 further bits of the tag: with only the 23 above, busy hosts would at times mix up datagrams */
};
#define NM_FRAGMENTS 4096

/* What happened to a packet. Up to NM_FATE_LEFT_OUT the cache of its CPU was entered. */
enum nm_fate {
	NM_FATE_CACHED = 0,    /* added to the entry of its flow */
	NM_FATE_NEW = 1,       /* a new entry, in a free slot or in place of an idle one */
	NM_FATE_DISPLACED = 2, /* a new entry, in place of another flow's; that was reported */
	NM_FATE_OUSTED = 3,    /* the same, but what the other flow's entry held was lost */
	NM_FATE_LOST = 4,      /* no room in the cache, and the ring was full */
	NM_FATE_LEFT_OUT = 5,  /* its flow is outside the sample */
	NM_FATE_PAST = 6,      /* the cache was in use: the packet got a record of its own */
	NM_FATE_PAST_LOST = 7, /* the same, but the ring was full */
	NM_FATE_NOT_IP = 8,
	NM_FATE_MALFORMED = 9,
};
