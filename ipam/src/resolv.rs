//! resolv.conf as host-local's `resolvConf` reads it; pure.

/// The content of a resolv.conf, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The addresses after `nameserver`, one per line.
    pub nameservers: Vec<String>,
    /// The last `domain`.
    pub domain: Option<String>,
    /// All words after `search`.
    pub search: Vec<String>,
    /// All words after `options`.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads the text of a resolv.conf (resolv.conf(5)); unknown lines are skipped.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            if let (Some(keyword), Some(first)) = (words.next(), words.next()) {
                conf.add(keyword, first, words);
            }
        }
        conf
    }

    fn add<'a>(&mut self, keyword: &str, first: &'a str, rest: impl Iterator<Item = &'a str>) {
        let all = std::iter::once(first).chain(rest.filter(|_| keyword != "nameserver")).map(str::to_owned);
        match keyword {
            "nameserver" => self.nameservers.extend(all),
            "domain" => self.domain = Some(first.to_owned()),
            "search" => self.search.extend(all),
            "options" => self.options.extend(all),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_keyword_is_read_and_other_lines_are_not() {
        let text = "# comment\n; nameserver 9.9.9.9\n  nameserver 10.0.0.1 # mine\nnameserver fd00::1\nnameserver\n\
                    domain a.example\ndomain b.example\nsearch one two\nsearch three\noptions ndots:2 rotate\nsortlist x\n";

        let conf = ResolvConf::parse(text);

        assert_eq!(conf.nameservers, ["10.0.0.1", "fd00::1"]);
        assert_eq!(conf.domain.as_deref(), Some("b.example"));
        assert_eq!(conf.search, ["one", "two", "three"]);
        assert_eq!(conf.options, ["ndots:2", "rotate"]);
        assert_eq!(ResolvConf::parse(""), ResolvConf::default());
    }
}
