//! Options: what the rules depend on besides cluster objects, validated once.

use std::net::IpAddr;

use crate::error::InputError;
use crate::model::address::{Family, Net, parse_ip};
use crate::model::interface::Interface;

mod choices;

pub use choices::{BalanceLimits, ChainLayout, LocalDetector, TreeLimits, WriteStrategy};

pub(crate) use choices::NodePortAddress;
use choices::wrong;

/// The configuration of an [`Engine`](crate::Engine). Build it with [`Options::new`], then set fields; setters check text.
///
/// ```
/// use ferrule_engine::{ChainLayout, Options};
///
/// let mut options = Options::new("node-1");
/// options.dispatch = ChainLayout::Tree;
/// options.set_node_port_addresses(&["192.0.2.0/24", "primary"])?;
/// assert!(options.set_masquerade_bit(32).is_err());
/// # Ok::<(), ferrule_engine::InputError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // one per switch of KubeProxyConfiguration; they are independent
pub struct Options {
    /// Name of this node; endpoints with this nodeName are local.
    pub node_name: String,
    /// Addresses used while the Node object has none, at most one per family.
    pub(crate) node_ips: [Option<IpAddr>; 2],
    /// Whether all traffic to cluster IPs is masqueraded.
    pub masquerade_all: bool,
    pub(crate) masquerade_mark: u32,
    /// Whether MASQUERADE supports `--random-fully` on this host.
    pub masquerade_random_fully: bool,
    /// Whether node ports are served on 127.0.0.1 (IPv4 only).
    pub localhost_node_ports: bool,
    /// Whether `nf_conntrack_tcp_be_liberal` is on: out-of-window packets are then not INVALID and need not be dropped.
    pub conntrack_tcp_be_liberal: bool,
    /// Whether the nfacct object for dropped INVALID packets exists.
    pub nfacct_invalid_dropped: bool,
    /// Whether the nfacct object for node port traffic to localhost exists.
    pub nfacct_localhost_accepted: bool,
    pub(crate) node_port_addresses: Vec<NodePortAddress>,
    /// Whether `spec.externalIPs` is programmed (feature gate `AllowServiceExternalIPs`).
    pub external_ips: bool,
    /// How Pod traffic is detected.
    pub local_detector: LocalDetector,
    /// How large writes are split.
    pub write_strategy: WriteStrategy,
    /// The layout of dispatch chains.
    pub dispatch: ChainLayout,
    /// Limits for the layout of dispatch chains.
    pub tree_limits: TreeLimits,
    /// The layout of balancing chains.
    pub balance: ChainLayout,
    /// Limits for the layout of balancing chains.
    pub balance_limits: BalanceLimits,
    /// Services (`namespace/name`) that are written first at a large start over an empty kernel, together with those
    /// that carry the DNS label. Without any there is no first stage.
    pub(crate) first_services: Vec<Box<str>>,
    /// The approximate number of chains above which a start is large. Fewer chains are written in some tenths of a
    /// second anyway.
    pub first_stage_above: usize,
    /// The key of the chain digests. Secret and random in a daemon, so that a tenant cannot construct collisions.
    pub digest_key: [u8; 16],
}

impl Options {
    /// Returns kube-proxy's defaults for a node with this name.
    #[must_use]
    pub fn new(node_name: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            node_ips: [None; 2],
            masquerade_all: false,
            masquerade_mark: 1 << 14,
            masquerade_random_fully: true,
            localhost_node_ports: true,
            conntrack_tcp_be_liberal: false,
            nfacct_invalid_dropped: false,
            nfacct_localhost_accepted: false,
            external_ips: true,
            node_port_addresses: Vec::new(),
            local_detector: LocalDetector::None,
            write_strategy: WriteStrategy::default(),
            dispatch: ChainLayout::default(),
            tree_limits: TreeLimits::default(),
            balance: ChainLayout::default(),
            balance_limits: BalanceLimits::default(),
            first_services: Vec::new(),
            first_stage_above: 4000,
            digest_key: [0; 16],
        }
    }

    /// Sets the addresses used until the Node object has some.
    ///
    /// # Errors
    /// A text is not an address, or two are of one family.
    pub fn set_node_ips<S: AsRef<str>>(&mut self, ips: &[S]) -> Result<(), InputError> {
        for text in ips.iter().map(AsRef::as_ref) {
            let ip = parse_ip(text).map_err(|e| wrong("node_ips", text, &e))?;
            let slot = &mut self.node_ips[Family::of(ip).index()];
            if slot.replace(ip).is_some() {
                return Err(wrong("node_ips", text, &"is the second address of its family"));
            }
        }
        Ok(())
    }

    /// Sets the bit of the packet mark that means "masquerade".
    ///
    /// # Errors
    /// A bit above 31.
    pub fn set_masquerade_bit(&mut self, bit: u32) -> Result<(), InputError> {
        self.masquerade_mark = 1u32
            .checked_shl(bit)
            .ok_or_else(|| wrong("masquerade_bit", &bit.to_string(), &"must be within 0 and 31"))?;
        Ok(())
    }

    /// Sets the node port addresses: CIDRs and the words `primary`, `localhost`, `all`. A family without an entry uses
    /// all its addresses.
    ///
    /// # Errors
    /// A text is neither a CIDR nor one of the words.
    pub fn set_node_port_addresses<S: AsRef<str>>(&mut self, list: &[S]) -> Result<(), InputError> {
        let parse = |text: &S| match text.as_ref() {
            "primary" => Ok(NodePortAddress::Primary),
            "localhost" => Ok(NodePortAddress::Localhost),
            "all" => Ok(NodePortAddress::All),
            cidr => Net::parse(cidr).map(NodePortAddress::Net).map_err(|e| wrong("node_port_addresses", cidr, &e)),
        };
        self.node_port_addresses = list.iter().map(parse).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Sets the Services of the first stage by `namespace/name`.
    ///
    /// # Errors
    /// A text has another form.
    pub fn set_first_services<S: AsRef<str>>(&mut self, names: &[S]) -> Result<(), InputError> {
        let parse = |text: &S| match text.as_ref().split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(text.as_ref().into())
            }
            _ => Err(wrong("first_services", text.as_ref(), &"is not of the form namespace/name")),
        };
        self.first_services = names.iter().map(parse).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Sets the layout of dispatch chains: `auto`, `flat` or `tree`.
    ///
    /// # Errors
    /// Any other word.
    pub fn set_dispatch(&mut self, word: &str) -> Result<(), InputError> {
        self.dispatch = ChainLayout::parse("dispatch", word)?;
        Ok(())
    }

    /// Sets the layout of balancing chains: `auto`, `flat` or `tree`.
    ///
    /// # Errors
    /// Any other word.
    pub fn set_balance(&mut self, word: &str) -> Result<(), InputError> {
        self.balance = ChainLayout::parse("balance", word)?;
        Ok(())
    }

    /// Sets the local detector by kube-proxy's mode name. `cidrs` is used for `ClusterCIDR`, `interface` for the two
    /// interface modes. `ClusterCIDR` without a CIDR detects nothing, as in kube-proxy.
    ///
    /// # Errors
    /// The mode is unknown, a text is not a CIDR, or the interface name is invalid.
    pub fn set_local_detector<S: AsRef<str>>(
        &mut self,
        mode: &str,
        cidrs: &[S],
        interface: &str,
    ) -> Result<(), InputError> {
        let name = |suffix: &str| {
            Interface::new(&[interface, suffix].concat())
                .ok_or_else(|| wrong("local_interface", interface, &"is not an interface name of 1 to 15 characters"))
        };
        self.local_detector = match mode {
            "None" => LocalDetector::None,
            "ClusterCIDR" => {
                let parse = |text: &S| Net::parse(text.as_ref()).map_err(|e| wrong("cluster_cidrs", text.as_ref(), &e));
                let nets = cidrs.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
                if nets.is_empty() { LocalDetector::None } else { LocalDetector::ClusterCidr(nets) }
            }
            "NodeCIDR" => LocalDetector::NodeCidr,
            "BridgeInterface" => LocalDetector::Bridge(name("")?),
            "InterfaceNamePrefix" => LocalDetector::Prefix(name("+")?),
            other => return Err(wrong("local_detector", other, &"is not a mode")),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_options_name_themselves_and_their_value() {
        let mut o = Options::new("n");
        let texts = [
            o.set_masquerade_bit(32).unwrap_err().to_string(),
            o.set_node_ips(&["10.0.0.1", "10.0.0.2"]).unwrap_err().to_string(),
            o.set_node_port_addresses(&["10.0.0.0/33"]).unwrap_err().to_string(),
            o.set_local_detector::<&str>("BridgeInterface", &[], "a-name-of-30-characters-too-long")
                .unwrap_err()
                .to_string(),
            o.set_local_detector::<&str>("InterfaceNamePrefix", &[], "two words").unwrap_err().to_string(),
            o.set_local_detector("ClusterCIDR", &["10.0.0.0"], "").unwrap_err().to_string(),
            o.set_local_detector::<&str>("Magic", &[], "").unwrap_err().to_string(),
            o.set_dispatch("hash").unwrap_err().to_string(),
            o.set_balance("even").unwrap_err().to_string(),
            o.set_first_services(&["default/kubernetes", "kube-dns"]).unwrap_err().to_string(),
        ];
        let words =
            ["32", "10.0.0.2", "10.0.0.0/33", "a-name", "two words", "10.0.0.0", "Magic", "\"hash\"", "\"even\""];
        let words = words.into_iter().chain(["\"kube-dns\""]);
        assert_eq!(texts.len(), words.clone().count());
        for (text, words) in texts.iter().zip(words) {
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn every_bit_has_its_mark() {
        let mut o = Options::new("n");
        for bit in 0..32 {
            o.set_masquerade_bit(bit).unwrap();
            assert_eq!(o.masquerade_mark.trailing_zeros(), bit);
        }
    }
}
