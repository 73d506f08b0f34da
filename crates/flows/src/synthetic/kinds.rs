//! Kinds of traffic and their parameters, chosen by hand so that the whole looks like UNSW-NB15.

/// Weighted choices.
pub(super) type Weighted = &'static [(u32, &'static str)];

/// Log-normal: median and standard deviation of the logarithm.
#[derive(Clone, Copy)]
pub(super) struct Spread(pub(super) f64, pub(super) f64);

/// A kind of traffic: flows that one cause makes.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// How many of ten thousand flows.
    pub(super) share: u32,
    pub(super) category: &'static str,
    pub(super) protos: Weighted,
    pub(super) services: Weighted,
    pub(super) state: &'static str,
    pub(super) ttl: [u8; 2],
    /// Packets from the source.
    pub(super) packets: Spread,
    /// Packets back for each of them; 0 for none.
    pub(super) reply: Spread,
    /// Bytes in a packet, out and back.
    pub(super) bytes: [Spread; 2],
    pub(super) seconds: Spread,
    /// Seconds of the TCP handshake; 0 where there is none.
    pub(super) rtt: Spread,
    /// Share of the packets that are lost.
    pub(super) loss: f64,
    /// Typical counts of recent connections: same service and source, same destination, same source, same pair.
    pub(super) crowd: [f64; 4],
    /// Probability that a flow repeats an earlier one of its kind.
    pub(super) repeats: f64,
}

const NONE: Spread = Spread(0.0, 0.0);
const TCP: Weighted = &[(1, "tcp")];
const UDP: Weighted = &[(1, "udp")];
const UNKNOWN: Weighted = &[(1, "-")];
const RARE: Weighted = &[
    (520, "unas"),
    (100, "ospf"),
    (50, "sctp"),
    (25, "any"),
    (20, "gre"),
    (15, "rsvp"),
    (14, "leaf-1"),
    (13, "pim"),
    (13, "cftp"),
    (13, "smp"),
    (12, "pri-enc"),
    (12, "swipe"),
    (12, "mobile"),
    (12, "sun-nd"),
    (11, "ipv6"),
    (11, "sep"),
    (10, "ib"),
    (10, "iatp"),
    (10, "aris"),
    (10, "wsn"),
    (9, "zero"),
    (9, "tlsp"),
    (9, "vrrp"),
    (8, "bna"),
    (8, "egp"),
    (7, "pgm"),
    (7, "xtp"),
    (6, "ddp"),
    (6, "snp"),
    (5, "crtp"),
    (5, "ipcomp"),
    (4, "etherip"),
    (3, "ttp"),
    (3, "isis"),
    (2, "srp"),
    (2, "pup"),
];

/// A conversation over TCP that was closed in order.
const CLOSED: Kind = Kind {
    share: 0,
    category: "Normal",
    protos: TCP,
    services: UNKNOWN,
    state: "FIN",
    ttl: [254, 252],
    packets: Spread(10.0, 0.4),
    reply: Spread(0.64, 0.22),
    bytes: [Spread(60.0, 0.45), Spread(45.0, 0.12)],
    seconds: Spread(0.88, 0.5),
    rtt: Spread(0.16, 0.28),
    loss: 0.22,
    crowd: [3.0, 1.5, 2.0, 2.6],
    repeats: 0.01,
};

/// One or two packets that nobody answers.
const UNANSWERED: Kind = Kind {
    state: "INT",
    protos: UDP,
    ttl: [254, 0],
    packets: Spread(2.0, 0.05),
    reply: NONE,
    bytes: [Spread(100.0, 0.08), NONE],
    seconds: Spread(8e-6, 0.5),
    rtt: NONE,
    loss: 0.0,
    crowd: [7.0, 3.0, 4.0, 4.0],
    repeats: 0.1,
    ..CLOSED
};

/// Packets of a protocol that the network does not speak.
const RARE_PROTOCOL: Kind =
    Kind { protos: RARE, packets: Spread(2.0, 0.12), crowd: [9.0, 3.4, 5.5, 4.4], repeats: 0.45, ..UNANSWERED };

pub(super) const KINDS: [Kind; 38] = [
    // benign
    Kind {
        share: 1430,
        services: &[(68, "-"), (14, "http"), (8, "ftp-data"), (6, "smtp"), (2, "ssh"), (2, "ftp")],
        ttl: [31, 29],
        packets: Spread(36.0, 0.9),
        reply: Spread(1.05, 0.26),
        bytes: [Spread(67.0, 0.7), Spread(429.0, 1.0)],
        seconds: Spread(0.048, 1.9),
        rtt: Spread(0.000_68, 0.28),
        loss: 0.21,
        crowd: [6.0, 3.0, 4.0, 1.4],
        ..CLOSED
    },
    Kind { share: 790, services: &[(91, "-"), (7, "ftp"), (2, "http")], ..CLOSED },
    Kind {
        share: 450,
        services: &[(98, "-"), (2, "http")],
        packets: Spread(10.0, 0.04),
        reply: Spread(0.6, 0.06),
        bytes: [Spread(54.0, 0.04), Spread(44.7, 0.01)],
        ..CLOSED
    },
    Kind {
        share: 270,
        services: &[(97, "http"), (3, "-")],
        ttl: [62, 252],
        packets: Spread(10.0, 0.12),
        reply: Spread(0.8, 0.14),
        bytes: [Spread(82.0, 0.08), Spread(137.0, 0.3)],
        seconds: Spread(0.83, 0.5),
        loss: 0.2,
        ..CLOSED
    },
    Kind {
        share: 540,
        protos: UDP,
        services: &[(67, "dns"), (33, "-")],
        state: "CON",
        ttl: [31, 29],
        packets: Spread(2.0, 0.3),
        reply: Spread(1.0, 0.0),
        bytes: [Spread(73.0, 0.3), Spread(82.0, 0.07)],
        seconds: Spread(0.0011, 1.26),
        rtt: NONE,
        loss: 0.0,
        crowd: [4.0, 3.0, 4.0, 1.3],
        ..CLOSED
    },
    Kind {
        share: 230,
        state: "CON",
        ttl: [62, 252],
        packets: Spread(6.0, 0.08),
        reply: Spread(0.333, 0.02),
        bytes: [Spread(166.0, 0.08), Spread(43.0, 0.01)],
        seconds: Spread(0.45, 0.9),
        rtt: Spread(0.296, 0.7),
        loss: 0.34,
        crowd: [4.0, 2.0, 2.0, 4.0],
        ..CLOSED
    },
    Kind {
        share: 205,
        state: "REQ",
        bytes: [Spread(45.0, 0.02), NONE],
        rtt: NONE,
        protos: TCP,
        loss: 0.6,
        crowd: [9.0, 4.0, 4.0, 10.0],
        ..UNANSWERED
    },
    Kind { share: 280, bytes: [Spread(46.0, 0.06), NONE], crowd: [5.0, 2.0, 3.0, 3.8], ..UNANSWERED },
    Kind { share: 120, bytes: [Spread(66.0, 0.25), NONE], crowd: [5.0, 2.0, 3.0, 3.8], ..UNANSWERED },
    Kind {
        share: 115,
        protos: &[(1, "arp")],
        ttl: [0, 0],
        packets: Spread(1.0, 0.1),
        bytes: [Spread(46.0, 0.0), NONE],
        seconds: Spread(0.000_18, 0.2),
        crowd: [1.3, 1.3, 1.3, 1.3],
        repeats: 0.5,
        ..UNANSWERED
    },
    // floods of look-alike packets
    Kind {
        share: 2250,
        category: "Generic",
        services: &[(1, "dns")],
        bytes: [Spread(57.0, 0.01), NONE],
        crowd: [24.0, 13.0, 13.0, 22.0],
        repeats: 0.55,
        ..UNANSWERED
    },
    Kind { share: 20, category: "Generic", bytes: [Spread(80.0, 1.0), NONE], ..UNANSWERED },
    Kind {
        share: 35,
        category: "Generic",
        services: &[(5, "-"), (3, "http"), (1, "smtp"), (1, "ssl")],
        packets: Spread(12.0, 0.8),
        reply: Spread(0.8, 0.6),
        bytes: [Spread(148.0, 0.9), Spread(84.0, 0.9)],
        rtt: Spread(0.124, 0.5),
        crowd: [2.0, 1.2, 1.4, 1.2],
        ..CLOSED
    },
    Kind {
        share: 22,
        category: "Generic",
        services: &[(2, "http"), (1, "-")],
        ttl: [62, 252],
        packets: Spread(12.0, 0.8),
        reply: Spread(1.4, 0.6),
        bytes: [Spread(105.0, 0.4), Spread(717.0, 0.9)],
        seconds: Spread(0.6, 1.1),
        rtt: Spread(0.08, 0.5),
        crowd: [1.3, 1.1, 1.4, 1.1],
        ..CLOSED
    },
    // exploits
    Kind {
        share: 655,
        category: "Exploits",
        services: &[(32, "http"), (26, "-"), (19, "smtp"), (9, "ftp-data"), (8, "pop3"), (6, "ftp")],
        ttl: [62, 252],
        packets: Spread(18.0, 0.8),
        reply: Spread(1.0, 0.5),
        bytes: [Spread(82.0, 0.8), Spread(190.0, 0.9)],
        seconds: Spread(1.05, 0.9),
        rtt: Spread(0.104, 0.5),
        crowd: [1.3, 1.2, 1.5, 1.2],
        ..CLOSED
    },
    Kind {
        share: 300,
        category: "Exploits",
        services: &[(49, "http"), (47, "-"), (3, "ftp"), (1, "smtp")],
        packets: Spread(10.5, 0.5),
        reply: Spread(0.62, 0.35),
        bytes: [Spread(105.0, 0.8), Spread(46.0, 0.45)],
        seconds: Spread(0.5, 0.8),
        rtt: Spread(0.1, 0.5),
        crowd: [1.4, 1.2, 1.5, 1.2],
        ..CLOSED
    },
    Kind { share: 320, category: "Exploits", ..RARE_PROTOCOL },
    Kind { share: 30, category: "Exploits", bytes: [Spread(500.0, 1.0), NONE], crowd: [2.0, 1.3, 2.0, 1.3], ..UNANSWERED },
    Kind {
        share: 22,
        category: "Exploits",
        protos: UDP,
        services: &[(1, "-"), (1, "dns")],
        state: "CON",
        ttl: [254, 60],
        packets: Spread(3.0, 0.5),
        reply: Spread(1.0, 0.3),
        bytes: [Spread(120.0, 0.5), Spread(150.0, 0.5)],
        seconds: Spread(0.2, 1.0),
        rtt: NONE,
        loss: 0.0,
        crowd: [1.3, 1.2, 1.4, 1.2],
        ..CLOSED
    },
    // fuzzers: the hard ones, a little off the benign conversations that they imitate
    Kind {
        share: 430,
        category: "Fuzzers",
        services: &[(86, "-"), (7, "ftp"), (7, "http")],
        packets: Spread(12.5, 0.5),
        reply: Spread(0.68, 0.3),
        bytes: [Spread(92.0, 0.8), Spread(47.0, 0.3)],
        seconds: Spread(0.7, 0.95),
        rtt: Spread(0.13, 0.4),
        loss: 0.24,
        crowd: [5.0, 1.3, 2.1, 1.8],
        ..CLOSED
    },
    Kind { share: 130, category: "Fuzzers", bytes: [Spread(330.0, 1.2), NONE], crowd: [6.0, 2.0, 3.0, 2.2], ..UNANSWERED },
    Kind { share: 75, category: "Fuzzers", crowd: [7.0, 3.0, 5.0, 5.0], ..RARE_PROTOCOL },
    // denial of service
    Kind { share: 350, category: "DoS", crowd: [6.0, 2.2, 5.0, 5.0], ..RARE_PROTOCOL },
    Kind {
        share: 55,
        category: "DoS",
        services: &[(5, "-"), (3, "http"), (1, "smtp")],
        packets: Spread(12.0, 0.8),
        bytes: [Spread(112.0, 0.9), Spread(45.0, 0.5)],
        seconds: Spread(0.68, 1.0),
        rtt: Spread(0.1, 0.5),
        crowd: [1.4, 1.1, 1.4, 1.1],
        ..CLOSED
    },
    Kind {
        share: 65,
        category: "DoS",
        services: &[(6, "http"), (2, "-"), (1, "smtp"), (1, "pop3")],
        ttl: [62, 252],
        packets: Spread(10.0, 1.0),
        reply: Spread(0.8, 0.6),
        bytes: [Spread(80.0, 0.8), Spread(151.0, 0.9)],
        seconds: Spread(0.55, 1.0),
        rtt: Spread(0.088, 0.5),
        crowd: [1.3, 1.1, 1.4, 1.1],
        ..CLOSED
    },
    Kind { share: 20, category: "DoS", bytes: [Spread(230.0, 1.2), NONE], crowd: [1.5, 1.2, 1.4, 1.2], ..UNANSWERED },
    Kind { share: 10, category: "DoS", state: "REQ", protos: TCP, bytes: [Spread(52.0, 0.3), NONE], loss: 0.5, ..UNANSWERED },
    // reconnaissance
    Kind {
        share: 250,
        category: "Reconnaissance",
        services: &[(71, "-"), (29, "http")],
        packets: Spread(10.0, 0.06),
        reply: Spread(0.76, 0.12),
        bytes: [Spread(57.0, 0.22), Spread(44.0, 0.05)],
        seconds: Spread(0.75, 0.6),
        rtt: Spread(0.102, 0.5),
        loss: 0.2,
        crowd: [1.5, 1.2, 1.5, 1.2],
        ..CLOSED
    },
    Kind {
        share: 160,
        category: "Reconnaissance",
        services: &[(98, "-"), (2, "snmp")],
        bytes: [Spread(84.0, 0.13), NONE],
        crowd: [1.6, 1.2, 1.5, 1.2],
        ..UNANSWERED
    },
    Kind { share: 50, category: "Reconnaissance", crowd: [5.0, 2.2, 5.0, 5.0], ..RARE_PROTOCOL },
    // the rest
    Kind { share: 140, category: "Analysis", crowd: [11.0, 4.0, 6.0, 4.0], ..RARE_PROTOCOL },
    Kind {
        share: 8,
        category: "Analysis",
        ttl: [62, 252],
        packets: Spread(10.0, 0.2),
        rtt: Spread(0.1, 0.4),
        crowd: [2.0, 1.5, 1.5, 1.3],
        ..CLOSED
    },
    Kind { share: 112, category: "Backdoor", crowd: [12.0, 4.0, 6.0, 4.0], ..RARE_PROTOCOL },
    Kind {
        share: 6,
        category: "Backdoor",
        packets: Spread(14.0, 0.6),
        rtt: Spread(0.1, 0.5),
        crowd: [1.3, 1.1, 1.3, 1.1],
        ..CLOSED
    },
    Kind {
        share: 25,
        category: "Shellcode",
        packets: Spread(10.0, 0.06),
        bytes: [Spread(61.0, 0.3), Spread(45.0, 0.02)],
        seconds: Spread(0.46, 0.75),
        rtt: Spread(0.114, 0.5),
        crowd: [1.3, 1.2, 1.4, 1.1],
        ..CLOSED
    },
    Kind { share: 20, category: "Shellcode", bytes: [Spread(178.0, 0.8), NONE], crowd: [1.3, 1.1, 1.3, 1.1], ..UNANSWERED },
    Kind {
        share: 8,
        category: "Worms",
        services: &[(9, "http"), (1, "-")],
        ttl: [62, 252],
        packets: Spread(10.0, 0.8),
        bytes: [Spread(130.0, 0.6), Spread(45.0, 1.3)],
        seconds: Spread(0.64, 1.1),
        rtt: Spread(0.117, 0.5),
        crowd: [1.3, 1.1, 1.3, 1.1],
        ..CLOSED
    },
    Kind { share: 2, category: "Worms", bytes: [Spread(300.0, 0.5), NONE], crowd: [1.2, 1.1, 1.2, 1.1], ..UNANSWERED },
];
