/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What the programs keep and what user space reads: one layout, exported to Rust by the skeleton. */
#pragma once

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

/* Why a record was written. */
enum nm_cause {
	NM_DISPLACED = 0, /* another flow needed the slot */
	NM_URGENT = 1,    /* RST or ICMP error: user space should know at once */
	NM_SWEPT = 2,     /* idle, new or due */
	NM_BYPASSED = 3,  /* the cache was in use on this CPU: the packet is a record of its own */
	NM_QUOTED = 4,    /* no packet: an ICMP error quotes one of this key; type and code are the error's */
};

/* What was seen of a key since its last record. */
struct nm_delta {
	__u64 packets; /* on the wire: each segment of a GSO or GRO packet counts */
	__u64 bytes;   /* on the wire from the link-layer header on, repeated headers of segments included */
	__u64 first;   /* jiffies64 */
	__u64 last;    /* jiffies64 */
	__u8 tcp_flags; /* OR of the flags byte */
	__u8 icmp_type; /* of the latest packet */
	__u8 icmp_code;
	__u8 cause;   /* enum nm_cause */
	__u16 worth;  /* packets of earlier records, halved with each: keeps busy flows in the cache; 0: never reported */
	__u8 urged;   /* an urgent record was written: one is enough */
	__u8 opening; /* OR of NM_SYN, NM_SYN_ACK: the flags alone do not tell who opened */
};

#define NM_SYN 1
#define NM_SYN_ACK 2

struct nm_entry4 {
	struct nm_key4 key;
	struct nm_delta delta;
};

struct nm_entry6 {
	struct nm_key6 key;
	struct nm_delta delta;
};

#define NM_WAYS 4

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
	NM_APP_UNKNOWN = 255, /* none of these */
};

/* What a sample measured; the sender is that of the entry. */
enum nm_sample {
	NM_HANDSHAKE_SERVER = 1, /* SYN to the sender's SYN-ACK */
	NM_HANDSHAKE_CLIENT = 2, /* SYN-ACK to the sender's ACK */
	NM_CONNECT = 3,          /* the sender's first SYN to its ACK */
	NM_RTT = 4,              /* data of the other end to the sender's ACK */
	NM_RTT_LONE = 5,         /* the same; the ACK covers that segment alone and carries nothing: it may have been delayed */
	NM_RESPONSE = 6,         /* last byte of the other end to the sender's first */
	NM_ECHO = 7,             /* ICMP echo request to the sender's reply */
};

#define NM_SAMPLES 4
#define NM_SAMPLE_KIND(s) ((s) >> 56)
#define NM_SAMPLE_NS(s) ((s) & 0xffffffffffffffull)

/* What is rare: kept beside the entries, one for several sets, and written with its entry's record. */
struct nm_facts {
	__u64 sample[NM_SAMPLES]; /* enum nm_sample in the upper 8 bits, nanoseconds in the others */
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
	__u8 app_version; /* TLS: minor version, 1 to 4 for 1.0 to 1.3, 0: not known */
	__u8 owner;   /* whose facts these are: 1 + number of the entry among those that share them; 0: nobody's */
	__u8 pad[6];
};

/* Packets that belong to no flow. */
enum nm_ignored {
	NM_NOT_IP = 0,
	NM_MALFORMED = 1,
	NM_IGNORED = 2,
};

/* The books of one interface on one CPU: seen = recorded + ignored + lost + what is still cached. */
struct nm_books {
	__u32 ifindex; /* 0: slot not in use */
	__u32 pad;
	struct nm_tally seen[NM_HOOKS];
	struct nm_tally ignored[NM_IGNORED];
	struct nm_tally lost; /* their record found its ring full */
	__u64 align[5];       /* to whole cache lines */
};

#define NM_INTERFACES 1024 /* slots on each CPU, a power of two; interfaces that find none share one more */
#define NM_MAX_RINGS 64

/* What one CPU keeps for itself, in whole cache lines. */
struct nm_cpu {
	__u32 busy; /* the cache of this CPU is in use: whoever interrupts must leave it alone */
	__u32 slice_sets; /* of the present run of the sweep: sets looked at */
	__u64 live4; /* one bit a group of sets: may hold entries */
	__u64 live6;
	__u64 records;
	__u64 records_lost; /* ring full, and no place to keep what they held */
	__u64 jiffies; /* both clocks at the latest sweep, to calibrate jiffies */
	__u64 monotonic_ns;
	__u64 slice_start; /* and `records` at its start */
	__u32 unwoken[NM_MAX_RINGS]; /* records since this CPU last woke the ring's reader */
};

#define NM_GROUPS_SHIFT 6
#define NM_GROUPS (1 << NM_GROUPS_SHIFT) /* the sets of a cache in as many groups; those not in use are not swept */
#define NM_GROUP_MAX 1024                /* sets of a group */

/* Return values of nm_sweep besides the set to go on with. */
#define NM_SWEEP_DONE 0xfffffffeu
#define NM_SWEEP_BUSY 0xffffffffu

/* A fragmented datagram's ports, for the fragments without a transport header. */
struct nm_fragment {
	/* Tag (24 bits), protocol (8), both ports (32; of ICMP identifier, type, code): one word, so that it is read whole. */
	__u64 word;
	__u64 seen; /* jiffies64 */
};
#define NM_FRAGMENTS 4096
