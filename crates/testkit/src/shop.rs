//! The one document that tests apply: a shop, with what a test is about said and the rest left out.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use crate::backend::Backend;

/// A farm `shop` with a service `site`, in the making. [`Shop::to_yaml`] is the document.
///
/// Settings are given as YAML, so that a test reads like what an operator would write.
#[derive(Clone, Debug, Default)]
pub struct Shop {
    cluster: Vec<String>,
    vip: Vec<IpAddr>,
    listeners: Vec<String>,
    farm: Vec<String>,
    other_services: Vec<String>,
    site: Vec<String>,
    backends: Vec<BackendLine>,
}

#[derive(Clone, Debug)]
struct BackendLine {
    name: String,
    address: SocketAddr,
    settings: String,
}

impl Shop {
    /// A shop with these backends; it listens nowhere yet.
    pub fn new<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> Self {
        let line = |backend: &Backend| BackendLine {
            name: backend.name().to_owned(),
            address: backend.address(),
            settings: String::new(),
        };
        Self { backends: backends.into_iter().map(line).collect(), ..Self::default() }
    }

    /// Adds a backend that is no [`Backend`].
    pub fn backend_at(mut self, name: &str, address: SocketAddr) -> Self {
        self.backends.push(BackendLine { name: name.to_owned(), address, settings: String::new() });
        self
    }

    /// Listens on an address that every node has. Only one node of one machine can.
    pub fn listen_on(mut self, address: SocketAddr) -> Self {
        self.listeners.push(format!("{{ name: web, address: {}, port: {} }}", address.ip(), address.port()));
        self
    }

    /// Gives each node an address of its own: `node-1` the first, and so on.
    pub fn listen_on_each(mut self, addresses: &[SocketAddr]) -> Self {
        for (number, address) in (1..).zip(addresses) {
            self.listeners.push(format!(
                "{{ name: web{number}, address: {}, port: {}, nodes: {{ node: node-{number} }} }}",
                address.ip(),
                address.port()
            ));
        }
        self
    }

    /// Listens on the VIP `public`, which has this address.
    pub fn on_vip(mut self, address: SocketAddr) -> Self {
        self.vip.push(address.ip());
        self.listeners.push(format!("{{ name: web, vip: public, port: {} }}", address.port()));
        self
    }

    /// Gives the VIP one more address.
    pub fn also_at(mut self, ip: IpAddr) -> Self {
        self.vip.push(ip);
        self
    }

    /// Binds clients by a cookie that the backend sets.
    pub fn learned_cookie(self, name: &str) -> Self {
        self.site(&format!("persistence: {{ table: {{ key: {{ learned_cookie: {name} }} }} }}"))
    }

    /// Binds clients by a request header.
    pub fn persistence_header(self, name: &str) -> Self {
        self.site(&format!("persistence: {{ table: {{ key: {{ header: {name} }} }} }}"))
    }

    /// Binds clients by a signed cookie of Ballast's own.
    pub fn signed_cookie(self) -> Self {
        self.site("persistence: { cookie: {} }")
    }

    /// Checks `/healthz` of each backend five times a second.
    pub fn checked(self) -> Self {
        self.site("health: { http: { path: /healthz }, interval: 200ms, timeout: 150ms, rise: 2, fall: 3 }")
    }

    /// Adds a setting of the service, as YAML.
    pub fn site(mut self, setting: &str) -> Self {
        self.site.push(setting.to_owned());
        self
    }

    /// Adds a setting of the farm, as YAML.
    pub fn farm(mut self, setting: &str) -> Self {
        self.farm.push(setting.to_owned());
        self
    }

    /// Adds a setting of the cluster, as YAML.
    pub fn cluster(mut self, setting: &str) -> Self {
        self.cluster.push(setting.to_owned());
        self
    }

    /// Adds settings of one backend, as YAML pairs: `connections_max: 1, weight: 50`.
    ///
    /// # Panics
    /// When the shop has no backend of that name.
    pub fn backend(mut self, name: &str, settings: &str) -> Self {
        let known = self.backends.iter_mut().find(|backend| backend.name == name);
        known.expect("a backend of the shop").settings += &format!(", {settings}");
        self
    }

    /// Adds a service before `site` that takes no request: a change that concerns nobody.
    pub fn unused_service(mut self, name: &str) -> Self {
        self.other_services
            .push(format!("{{ name: {name}, match: {{ hosts: [nobody.test] }}, fallback: {{ status: 404 }} }}"));
        self
    }

    /// Adds a service before `site`, as YAML.
    pub fn other_service(mut self, service: &str) -> Self {
        self.other_services.push(service.to_owned());
        self
    }

    /// The document.
    pub fn to_yaml(&self) -> String {
        let mut text = "version: 1\n".to_owned();
        let mut line = |indent: usize, words: &str| {
            writeln!(text, "{:indent$}{words}", "").expect("writing to a String does not fail");
        };
        let list = |line: &mut dyn FnMut(usize, &str), indent: usize, head: &str, items: &[String]| {
            if !items.is_empty() {
                line(indent, head);
            }
            for item in items {
                line(indent + 2, item);
            }
        };
        let items = |words: &[String]| words.iter().map(|words| format!("- {words}")).collect::<Vec<_>>();
        list(&mut line, 0, "cluster:", &self.cluster);
        let addresses: Vec<String> = self.vip.iter().map(|ip| format!("\"{ip}\"")).collect();
        let vip = (!addresses.is_empty()).then(|| format!("{{ name: public, addresses: [{}] }}", addresses.join(", ")));
        list(&mut line, 0, "vips:", &items(vip.as_slice()));
        line(0, "farms:");
        line(2, "- name: shop");
        list(&mut line, 4, "listeners:", &items(&self.listeners));
        for setting in &self.farm {
            line(4, setting);
        }
        line(4, "services:");
        for service in items(&self.other_services) {
            line(6, &service);
        }
        line(6, "- name: site");
        for setting in &self.site {
            line(8, setting);
        }
        line(8, "backends:");
        for BackendLine { name, address, settings } in &self.backends {
            line(10, &format!("- {{ name: {name}, address: \"{address}\"{settings} }}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vip_has_the_addresses_that_it_was_given() {
        let ips = ["10.0.0.9", "fd00::9"].map(|ip| ip.parse::<IpAddr>().expect("an address"));
        let shop = Shop::new([]).on_vip((ips[0], 80).into()).also_at(ips[1]);
        let expected = "vips:\n  - { name: public, addresses: [\"10.0.0.9\", \"fd00::9\"] }\n";
        assert!(shop.to_yaml().contains(expected), "{}", shop.to_yaml());
    }

    #[test]
    fn a_shop_is_a_document_that_an_operator_would_write() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let shop = Shop::new([])
            .backend_at("web1", address(9001))
            .backend_at("web2", address(9002))
            .listen_on_each(&[address(8001), address(8002)])
            .cluster("voters: 5")
            .farm("timeouts: { connect: 1s }")
            .persistence_header("x-visitor")
            .unused_service("old")
            .backend("web2", "weight: 50");
        assert_eq!(
            shop.to_yaml(),
            "version: 1
cluster:
  voters: 5
farms:
  - name: shop
    listeners:
      - { name: web1, address: 127.0.0.1, port: 8001, nodes: { node: node-1 } }
      - { name: web2, address: 127.0.0.1, port: 8002, nodes: { node: node-2 } }
    timeouts: { connect: 1s }
    services:
      - { name: old, match: { hosts: [nobody.test] }, fallback: { status: 404 } }
      - name: site
        persistence: { table: { key: { header: x-visitor } } }
        backends:
          - { name: web1, address: \"127.0.0.1:9001\" }
          - { name: web2, address: \"127.0.0.1:9002\", weight: 50 }
"
        );
    }
}
