/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What the programs keep and what user space reads: one layout, exported to Rust by the skeleton. */
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

/* What a record is. A new kind is a number here, a struct that starts with a head, and an arm of `Event::decode` in src/bpf/event.rs. */
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
	__u8 version; /* of the kind's layout: NM_FLOW_VERSION and so on */
	__u16 length; /* bytes of the record, this head included */
};

#define NM_HEAD(what, of, bytes) ((struct nm_head){ .kind = (what), .version = (of), .length = (bytes) })

/* Why a record was written. */
enum nm_cause {
	NM_DISPLACED = 0, /* another flow needed the slot */
	NM_URGENT = 1,    /* RST or ICMP error: user space should know at once */
	NM_SWEPT = 2,     /* idle, new or due */
	NM_BYPASSED = 3,  /* the cache was in use on this CPU: the packet is a record of its own */
	NM_QUOTED = 4,    /* no packet: an ICMP error quotes one of this key; type and code are the error's */
	NM_STAMPED = 0x20,  /* beside one of these: `probed` and `icmp` are low and high half of the time of the latest FIN or RST */
	NM_SHORT = 0x40,    /* beside one of these: the latest data of TCP are no longer than NM_ALERT */
	NM_UNJUDGED = 0x80, /* beside one of these: nothing was known by which to judge whether the first segment was sent before */
};

/* What only the cache needs: where an entry keeps it, a record has its head. */
struct nm_kept {
	__u16 window; /* TCP: as announced, unscaled */
	__u16 worth;  /* packets of earlier records, halved with each: keeps busy flows in the cache; 0: never reported */
};

/* What was seen of a key since its last record, and what must be known of it to judge the next packet. */
struct nm_delta {
	union {
		struct nm_head head; /* of a record */
		struct nm_kept kept; /* of an entry */
	};
	__u32 packets; /* on the wire: each segment of a GSO or GRO packet counts */
	__u64 bytes;   /* on the wire from the link-layer header on, repeated headers of segments included */
	__u32 first;   /* low half of jiffies64; without packets: sweeps that found none */
	__u32 last;    /* low half of jiffies64 */
	__u32 seq_end; /* TCP: behind the highest sequence number sent */
	__u32 ack;     /* TCP: the latest, whichever is furthest on */
	__u16 probed;  /* time of the latest RTT probe, in units of nm_probe_every */
	__u16 icmp;    /* type and code (lower byte) of the latest packet; TCP: time of the latest RTT sample, as `probed` */
	__u8 tcp_flags; /* OR of the flags byte */
	__u8 state;   /* enum nm_state */
	__u8 cause;   /* enum nm_cause; of an entry only what stands beside one */
	__u8 looks;   /* payloads that may still be looked at for the application protocol */
};

/* Bits of `nm_delta.state`. */
enum nm_state {
	NM_SYN = 0x01,     /* SYN without ACK: the flags alone do not say who opened; SCTP: INIT */
	NM_SYN_ACK = 0x02, /* SYN with ACK; SCTP: INIT ACK */
	NM_OPENING = NM_SYN | NM_SYN_ACK,
	/* The same bits in other protocols. */
	NM_FIRST = 0x01,     /* the other end was not seen before, as far back as that is remembered */
	NM_BROADCAST = 0x02, /* the frame was sent to everybody */
	NM_URGED = 0x04,     /* an urgent record was written: one is enough */
	NM_NOTED = 0x08,     /* has facts */
	NM_TRACKED = 0x10,   /* TCP: `seq_end` is known */
	NM_ACKED = 0x20,     /* TCP: `ack` is known */
	NM_HEARD = 0x40,     /* the other end has sent since this one sent last */
	NM_SHAKING = 0x80,   /* TCP: opened, and the ACK that ends the handshake has not come */
};

/* The delta comes first, so that it is found without knowing the family, and a record starts with its head. */
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

/* Where precise times come from. */
enum nm_clock_source {
	NM_CLOCK_KERNEL = 0,
	NM_CLOCK_HARDWARE = 1, /* the stamp of the NIC, else as above */
	NM_CLOCK_CAPTURE = 2,  /* skb->tstamp; jiffies are nanoseconds of it */
};

/* What the payload speaks. `nm_facts.app`; names for people are in src/bpf/app.rs. */
enum nm_app {
	NM_APP_UNDECIDED = 0, /* more payload may tell */
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
	/* Tunnels, by their headers; not in nm_apps. */
	NM_APP_VXLAN = 19,
	NM_APP_GENEVE = 20,
	NM_APP_GRE = 21,
	NM_APP_IPIP = 22, /* IPv4 in IP */
	NM_APP_SIT = 23,  /* IPv6 in IP */
	NM_APP_WEBSOCKET = 24, /* what HTTP has changed to: not looked for by itself */
	NM_APP_UNKNOWN = 255, /* none of these */
};

/* What a sample measured; the sender is that of the entry. */
enum nm_sample {
	NM_HANDSHAKE_SERVER = 1, /* SYN to the sender's SYN-ACK */
	NM_HANDSHAKE_CLIENT = 2, /* SYN-ACK to the sender's ACK */
	NM_CONNECT = 3,          /* the sender's first SYN to its ACK; above NM_OPENED_SHIFT when that SYN was */
	NM_RTT = 4,              /* data of the other end to the sender's ACK */
	NM_RTT_LONE = 5,         /* the same; nothing made the other end acknowledge at once: it may have been delayed */
	NM_RESPONSE = 6,         /* last byte of the other end to the sender's first */
	NM_ECHO = 7,             /* ICMP echo request to the sender's reply */
	NM_RTT_WAITED = 8,       /* as NM_RTT; the ACK rides on data or a FIN, or covers what was sent at an unknown time: it waited for that */
	NM_OPENED = 9,           /* no time: the first SYN of the other end, which the sender refuses, was when NM_OPENED_SHIFT says */
};

/* What is rare: kept beside the entries, one for several sets, and written with its entry's record. */
struct nm_facts {
	__u64 sample[NM_SAMPLES]; /* enum nm_sample above NM_KIND_SHIFT, nanoseconds below */
	__u32 hole_start; /* sequence numbers that were skipped: they may come late */
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
	__u8 owner;   /* whose facts these are: 1 + number of the entry among those that share them; 0: nobody's */
	__u8 app_next; /* enum nm_app: told after `app`, of the same sender */
	__u8 pad;
	__u32 check;  /* of the owner's key: another may have come in its place */
};

/* An entry with its facts, put together to be written. */
struct nm_noted4 {
	struct nm_entry4 entry;
	struct nm_facts facts;
};

struct nm_noted6 {
	struct nm_entry6 entry;
	struct nm_facts facts;
};

_Static_assert(sizeof(struct nm_head) == 4 && sizeof(struct nm_kept) == sizeof(struct nm_head), "a head takes the place of what is kept");
_Static_assert(sizeof(struct nm_entry4) == 64 && sizeof(struct nm_entry6) == 88, "as in src/bpf/event.rs");
_Static_assert(sizeof(struct nm_noted4) == 128 && sizeof(struct nm_noted6) == 152, "as in src/bpf/event.rs");

/*
 * A time, in one word so that it is read whole: tag of the connection (16 bits), which clock (1), nanoseconds (47, they
 * wrap after 39 hours). 0: none.
 */
#define NM_STAMP_HARDWARE (1ull << 47)
#define NM_STAMP_NS (NM_STAMP_HARDWARE - 1)

/*
 * Where the directions of a connection meet, as seen at one interface. Shared by all CPUs without locks: who finds another
 * tag, or a stamp of another connection, loses a sample. Sides are 0 and 1, by the order of their hashes.
 */
struct nm_pair {
	__u64 tag;           /* of the connection; 0: free */
	__u64 probe[2];      /* of each side: end of the segment in the upper half, low half of its stamp */
	__u64 probe_time[2]; /* stamp; void unless its low half is that of `probe` */
	__u32 touched;       /* in units of nm_probe_every */
	__u8 flags;          /* NM_PAIR_* */
	__u8 hardware;       /* bit a side: its packets come with the NIC's stamp */
	__u8 looked;         /* bit a side: its application protocol is settled; NM_LOOKED_NEXT of it: told, and may change */
	__u8 isn_known;      /* bit a side; UDP: it has sent */
	__u32 isn[2];
	__u32 connect;       /* nanoseconds that the handshake took; 0: not known */
	__u16 segment[2];    /* of each side: size of its probe's segments, and NM_SEGMENT_* */
	/* The second cache line: what changes with each turn of a conversation. */
	__u64 opened;        /* stamps: the first SYN, the SYN-ACK */
	__u64 answered;
	__u64 data[2];       /* stamps: what the side sent last, until the other has answered */
	__u32 echo[2];       /* ICMP: sequence number of the request that `data` is of */
	__u64 later[2];      /* of each side, sent after its probe: end of the segment in the upper half, nanoseconds since the probe */
	__u64 align[1];
};

#define NM_LOOKED_NEXT(bit) ((bit) << 2)

#define NM_SEGMENT_SHIFT 2
#define NM_SEGMENT_PUSHED 1 /* the probe ended what was written: the next may come any time later */
#define NM_SEGMENT_MANY 2   /* it was several segments: they are acknowledged at once */

#define NM_PAIR_CLIENT1 0x01 /* side 1 opened, else side 0 */
#define NM_PAIR_OPENED 0x02  /* the SYN was seen: the above holds */
#define NM_PAIR_RETRIED 0x04 /* SYN repeated: which one was answered is not known */
#define NM_PAIR_REPEATED 0x08 /* SYN-ACK repeated */
#define NM_PAIR_DONE 0x10    /* handshake over */
#define NM_PAIR_CLOSED 0x20  /* FIN or RST: others may have the slot */
#define NM_PAIR_REFUSED 0x40 /* the SYN had data, and the SYN-ACK does not acknowledge them: they come again */
#define NM_PAIR_HTTP2 0x80   /* speaks HTTP/2: not every payload asks or answers */

/* Packets that belong to no flow. */
enum nm_ignored {
	NM_NOT_IP = 0,
	NM_MALFORMED = 1,
	NM_IGNORED = 2,
};

/* The books of one interface on one CPU: seen + inner = recorded + ignored + left out + lost + what is still cached. */
struct nm_books {
	__u32 ifindex; /* 0: slot not in use */
	__u32 pad;
	struct nm_tally seen[NM_HOOKS];
	struct nm_tally ignored[NM_IGNORED];
	struct nm_tally lost;  /* their record found its ring full */
	struct nm_tally inner; /* found in tunnels' packets */
	__u64 whole[NM_HOOKS]; /* `seen` as the kernel handed them around: not cut into segments */
	struct nm_tally left_out; /* of flows that are not in the sample */
	__u64 align[7];        /* to whole cache lines */
};

/* Which of them are in use: whoever reads the books need not look at all. */
struct nm_books_used {
	__u8 slot[NM_INTERFACES];
};

/* What one CPU keeps for itself, in whole cache lines. */
struct nm_cpu {
	__u32 busy; /* the cache of this CPU is in use: whoever interrupts must leave it alone */
	__u32 sample;     /* 2^32 times the share of flows that is tracked, set by user space at any time; 0: all */
	__u64 live4; /* one bit a group of sets: may hold entries */
	__u64 live6;
	__u64 records;
	__u64 records_lost; /* ring full, and no place to keep what they held */
	__u64 jiffies; /* both clocks at the latest sweep, to calibrate jiffies */
	__u64 monotonic_ns;
	__u64 slice_start; /* and `records` at its start */
	__u64 unpaired;    /* times that another connection had the place in the pairing table: no time was measured */
	__u64 unsampled;   /* times measured and left out, for a record had just been written */
	__u64 unquoted;    /* quotes of ICMP errors left out, for too many came at once */
	__u64 stamps[2];   /* with nm_clock hardware: times of the kernel, and of the NIC */
	__u64 quotes_at;   /* jiffies64; and how many were written since */
	__u32 quotes;
	__u32 slice_sets;  /* of the present run of the sweep: sets looked at */
	struct nm_noted6 scratch; /* a record being put together, and the packet at hand: */
	__u64 packet[16];         /* as struct nm_packet; they belong to who holds `busy` */
	__u64 inner[16];          /* as struct nm_packet: found in the packet at hand; belongs to the packet path */
	__u32 unwoken[NM_MAX_RINGS]; /* records since this CPU last woke the ring's reader */
	__u64 align[6];
};

/* A fragmented datagram's ports, for the fragments without a transport header. */
struct nm_fragment {
	/* Tag (24 bits), protocol (8), both ports (32; of ICMP identifier, type, code): one word, so that it is read whole. */
	__u64 word;
	__u32 seen; /* as nm_packet.now */
	__u32 more; /* the tag's other bits (20): by the 23 above alone, busy hosts would take others' ports now and then */
};
#define NM_FRAGMENTS 4096

/* What became of a packet. Below NM_FATE_PAST its CPU's cache was entered. */
enum nm_fate {
	NM_FATE_CACHED = 0,    /* added to the entry of its flow */
	NM_FATE_NEW = 1,       /* a new entry, where none was, or an idle one */
	NM_FATE_DISPLACED = 2, /* a new entry, in place of another flow's */
	NM_FATE_OUSTED = 3,    /* the same, and what the other held was lost */
	NM_FATE_LOST = 4,      /* there was no room, and its ring was full */
	NM_FATE_LEFT_OUT = 5,  /* its flow is not in the sample */
	NM_FATE_PAST = 6,      /* the cache was in use: a record of its own */
	NM_FATE_PAST_LOST = 7, /* the same, and its ring was full */
	NM_FATE_NOT_IP = 8,
	NM_FATE_MALFORMED = 9,
};
