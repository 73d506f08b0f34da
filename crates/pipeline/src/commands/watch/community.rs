//! Community ID version 1: the same name for a flow in every program, of its addresses, ports and protocol.
//! <https://github.com/corelight/community-id-spec>

use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha1::{Digest as _, Sha1};

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP6: u8 = 58;
pub(super) const SCTP: u8 = 132;

/// The Community ID of a flow, with the seed 0. Of ICMP the ports are type and code. None where it needs ports and there are none, or
/// where the addresses are of two kinds.
pub(super) fn community_id(source: IpAddr, destination: IpAddr, protocol: u8, ports: Option<(u16, u16)>) -> Option<String> {
    if source.is_ipv4() != destination.is_ipv4() {
        return None;
    }
    let has_ports = matches!(protocol, ICMP | TCP | UDP | ICMP6 | SCTP);
    let mut ends = (source, destination);
    let mut of = if has_ports { Some(ports?) } else { None };
    let mut is_one_way = false;
    if let (ICMP | ICMP6, Some((kind, code))) = (protocol, of) {
        let answer = counterpart(protocol, kind);
        (of, is_one_way) = (Some((kind, answer.unwrap_or(code))), answer.is_none());
    }
    // the smaller end comes first, so that both directions have one name
    let key = |ip: IpAddr, port: Option<u16>| (octets(ip), port);
    if !is_one_way && key(ends.0, of.map(|of| of.0)) > key(ends.1, of.map(|of| of.1)) {
        ends = (ends.1, ends.0);
        of = of.map(|(first, second)| (second, first));
    }
    let mut bytes = vec![0, 0]; // the seed
    bytes.extend(octets(ends.0));
    bytes.extend(octets(ends.1));
    bytes.extend([protocol, 0]);
    if let Some((first, second)) = of {
        bytes.extend(first.to_be_bytes());
        bytes.extend(second.to_be_bytes());
    }
    Some(format!("1:{}", BASE64_STANDARD.encode(Sha1::digest(&bytes))))
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The type of the message that answers one of this type; None where there is none, so that the flow goes one way.
fn counterpart(protocol: u8, kind: u16) -> Option<u16> {
    const V4: [(u16, u16); 5] = [(8, 0), (13, 14), (15, 16), (10, 9), (17, 18)];
    const V6: [(u16, u16); 6] = [(128, 129), (133, 134), (135, 136), (130, 131), (139, 140), (144, 145)];
    let pairs: &[(u16, u16)] = if protocol == ICMP { &V4 } else { &V6 };
    let mut both = pairs.iter().flat_map(|&(ask, answer)| [(ask, answer), (answer, ask)]);
    both.find(|(asked, _)| *asked == kind).map(|(_, answer)| answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str, destination: &str, protocol: u8, ports: Option<(u16, u16)>) -> Option<String> {
        community_id(source.parse().unwrap(), destination.parse().unwrap(), protocol, ports)
    }

    #[test]
    fn both_directions_have_the_name_of_the_specification() {
        let wanted = Some("1:LQU9qZlK+B5F3KDmev6m5PMibrg=".to_owned());
        assert_eq!(of("128.232.110.120", "66.35.250.204", TCP, Some((34855, 80))), wanted);
        assert_eq!(of("66.35.250.204", "128.232.110.120", TCP, Some((80, 34855))), wanted);
        // baseline_deflt.json of the specification
        let udp = Some("1:d/FP5EW3wiY1vCndhwleRRKHowQ=".to_owned());
        assert_eq!(of("192.168.1.52", "8.8.8.8", UDP, Some((54585, 53))), udp);
        assert_eq!(of("8.8.8.8", "192.168.1.52", UDP, Some((53, 54585))), udp);
    }

    #[test]
    fn what_icmp_asks_and_answers_is_one_flow_and_what_nothing_answers_keeps_its_direction() {
        let echo = of("192.168.0.89", "192.168.0.1", ICMP, Some((8, 0)));
        assert_eq!(echo.as_deref(), Some("1:X0snYXpgwiv9TZtqg64sgzUn6Dk="));
        assert_eq!(of("192.168.0.1", "192.168.0.89", ICMP, Some((0, 0))), echo);
        let [there, back] =
            [("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.1")].map(|(a, b)| of(a, b, ICMP, Some((3, 1))).unwrap());
        assert_ne!(there, back);
        let v6 = of("fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", ICMP6, Some((135, 0)));
        assert_eq!(v6.as_deref(), Some("1:dGHyGvjMfljg6Bppwm3bg0LO8TY="));
    }

    #[test]
    fn without_ports_there_is_no_name_unless_the_protocol_has_none() {
        assert_eq!(of("10.0.0.1", "10.0.0.2", TCP, None), None);
        assert_eq!(of("10.0.0.1", "::1", TCP, Some((1, 2))), None);
        // GRE
        assert_eq!(of("10.0.0.2", "10.0.0.1", 47, None), of("10.0.0.1", "10.0.0.2", 47, Some((1, 2))));
        assert!(of("10.0.0.1", "10.0.0.2", 47, None).is_some());
    }
}
