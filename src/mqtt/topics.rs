//! The daemon's topics, and which response topics a client may ask for.
//!
//! ```text
//! <prefix>/<node>/status                retained: online | offline
//! <prefix>/<node>/info                  retained
//! <prefix>/<node>/stats                 periodic
//! <prefix>/<node>/model/<model>/infer   requests
//! <prefix>/<node>/model/<model>/result  answers and sensor results
//! ```

/// Longest topic, in bytes, that is accepted or built. MQTT's own limit is 65,535.
pub const MAX_TOPIC: usize = 1024;

/// Longest name of a node or a model, in bytes.
pub const MAX_NAME: usize = 128;

/// Builds and reads the topics of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    base: String,
}

impl Topics {
    /// `prefix` may have several levels (see [`check_prefix`]), `node` is one (see [`check_name`]).
    pub fn new(prefix: &str, node: &str) -> Result<Topics, String> {
        check_prefix(prefix)?;
        check_name(node)?;
        Ok(Topics { base: format!("{prefix}/{node}") })
    }

    pub fn status(&self) -> String {
        format!("{}/status", self.base)
    }

    pub fn info(&self) -> String {
        format!("{}/info", self.base)
    }

    pub fn stats(&self) -> String {
        format!("{}/stats", self.base)
    }

    /// Where the results of a model go. `model` should pass [`check_name`].
    pub fn result(&self, model: &str) -> String {
        format!("{}/model/{model}/result", self.base)
    }

    /// Where a client sends requests for a model.
    pub fn infer(&self, model: &str) -> String {
        format!("{}/model/{model}/infer", self.base)
    }

    /// The filter that the daemon subscribes to: the requests of every model.
    pub fn requests(&self) -> String {
        self.infer("+")
    }

    /// The model that a request topic names, or `None` for any other topic.
    pub fn model<'t>(&self, topic: &'t str) -> Option<&'t str> {
        let model = topic.strip_prefix(&self.base)?.strip_prefix("/model/")?.strip_suffix("/infer")?;
        check_name(model).is_ok().then_some(model)
    }
}

/// One topic level: 1 to 128 bytes, without `/`, wildcards and control characters.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(format!("expected a name of 1 to {MAX_NAME} bytes, got {}", name.len()));
    }
    match name.chars().find(|c| matches!(c, '/' | '+' | '#') || c.is_control()) {
        Some(c) => Err(format!("the name `{}` holds {c:?}: expected none of `/`, `+`, `#` or control characters", name.escape_debug())),
        None => Ok(()),
    }
}

/// One or more levels joined by `/`, none empty, the first not beginning with `$`, at most 256 bytes.
pub fn check_prefix(prefix: &str) -> Result<(), String> {
    if prefix.len() > 256 {
        return Err(format!("expected at most 256 bytes, got {}", prefix.len()));
    }
    if prefix.starts_with('$') {
        return Err(format!("`{prefix}` begins with `$`: such topics belong to the broker"));
    }
    prefix.split('/').try_for_each(|level| check_name(level).map_err(|e| format!("`{}`: {e}", prefix.escape_debug())))
}

/// Whether an answer may go to `topic`: a plain topic below one of `prefixes` at a `/` boundary, and not one of the topics
/// that daemons under `own_prefix` use themselves, which only they should write.
pub fn check_response(topic: &str, prefixes: &[String], own_prefix: &str) -> Result<(), String> {
    if topic.is_empty() || topic.len() > MAX_TOPIC {
        return Err(format!("the response topic has {} bytes: expected 1 to {MAX_TOPIC}", topic.len()));
    }
    if topic.contains(['+', '#']) || topic.chars().any(char::is_control) {
        return Err(format!("the response topic `{}` holds a wildcard or a control character", topic.escape_debug()));
    }
    if !prefixes.iter().any(|prefix| below(topic, prefix).is_some()) {
        return Err(format!("the response topic `{topic}` is not below an allowed prefix ({})", prefixes.join(", ")));
    }
    match below(topic, own_prefix) {
        Some(rest) if belongs_to_daemon(rest) => Err(format!("the response topic `{topic}` is one that a daemon uses itself")),
        _ => Ok(()),
    }
}

/// What follows `prefix/` in `topic`.
fn below<'t>(topic: &'t str, prefix: &str) -> Option<&'t str> {
    topic.strip_prefix(prefix.trim_end_matches('/'))?.strip_prefix('/')
}

/// Whether `rest`, below the prefix, is `<node>/status` and the like.
fn belongs_to_daemon(rest: &str) -> bool {
    let mut levels = rest.split('/').skip(1);
    matches!(levels.next(), Some("status" | "info" | "stats" | "model"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn topics() -> Topics {
        Topics::new("plant/jouled", "pi-4").unwrap()
    }

    #[test]
    fn topics_are_built_below_prefix_and_node() {
        assert_eq!(topics().status(), "plant/jouled/pi-4/status");
        assert_eq!(topics().requests(), "plant/jouled/pi-4/model/+/infer");
        assert_eq!(topics().result("digits"), "plant/jouled/pi-4/model/digits/result");
    }

    #[test]
    fn only_request_topics_name_a_model() {
        assert_eq!(topics().model("plant/jouled/pi-4/model/digits/infer"), Some("digits"));
        for other in [
            "plant/jouled/pi-4/model/digits/result",
            "plant/jouled/pi-4/model//infer",
            "plant/jouled/pi-4/model/a/b/infer",
            "plant/jouled/pi-4/model/+/infer",
            "plant/jouled/pi-40/model/digits/infer",
            "plant/jouled/pi-4/model/infer",
            "",
        ] {
            assert_eq!(topics().model(other), None, "{other}");
        }
    }

    #[test]
    fn names_and_prefixes_are_checked() {
        assert!(Topics::new("jouled", "a/b").unwrap_err().contains("a/b"));
        for bad in ["", "a+", "#", "a\0", "line\nbreak", &"x".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "/a", "a/", "a//b", "$SYS", "a/+", &"x/".repeat(200)] {
            assert!(check_prefix(bad).is_err(), "{bad:?}");
        }
        assert!(check_prefix("plant/line 3/jouled").is_ok());
    }

    #[test]
    fn response_topics_stay_below_allowed_prefixes() {
        let allowed = ["jouled".to_string(), "apps/replies/".to_string()];
        let check = |topic: &str| check_response(topic, &allowed, "jouled");
        for good in ["jouled/reply/7", "apps/replies/x", "jouled/pi/response/7"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let long = format!("jouled/{}", "x".repeat(MAX_TOPIC));
        for bad in ["", "jouled", "jouledx/a", "apps/repliesx", "other", "jouled/+", "jouled/#", "jouled/a\0", &long] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        for own in ["jouled/pi/status", "jouled/other/model/m/infer", "jouled/pi/model/m/result"] {
            assert!(check(own).unwrap_err().contains("uses itself"), "{own}");
        }
    }

    proptest! {
        #[test]
        fn every_model_is_found_in_its_own_topic(model in "[^/+#\\p{Cc}]{1,30}") {
            let topic = topics().infer(&model);
            prop_assert_eq!(topics().model(&topic), Some(model.as_str()));
        }

        #[test]
        fn any_text_is_judged_without_panic(topic in "\\PC{0,40}") {
            let _ = topics().model(&topic);
            let _ = check_response(&topic, &["a".to_string()], "a");
        }
    }
}
