//! docker's words that rnet does not have: what it answers instead.

use serde_json::Value;

use crate::common::Host;

/// What is typed, and what is said on stderr.
const ANSWERS: &[(&str, &str)] = &[
    (
        "run -it --name web busybox sh",
        "error: run has no option -i: the program already has the caller's terminal\n hint: rnet run --name web busybox sh\n",
    ),
    ("run -v /srv:/srv true", "error: run has no option -v: the program sees the caller's own files\n"),
    ("run -e A=b true", "error: run has no option -e: the program has the caller's environment\n"),
    (
        "exec --env A=b web true",
        "error: exec has no option --env: the program has the caller's environment\n",
    ),
    (
        "run --privileged true",
        "error: run has no option --privileged: the program has the caller's rights\n hint: rnet run true\n",
    ),
    ("run --ip6=fd00::2 true", "error: run has no option --ip6 yet\n"),
    ("create --internal lab", "error: create has no option --internal yet\n"),
    (
        "create --ingress lab",
        "error: create has no option --ingress: there are no services for a routing mesh\n",
    ),
    (
        "network create --subnt 10.0.0.0/8",
        "error: create has no option --subnt\n hint: did you mean --subnet?\n",
    ),
    ("ls --filter name=x", "error: ls has no option --filter yet\n hint: rnet ls --json\n"),
    ("rename a b", "error: rnet has no rename yet\n"),
    ("network connect a b", "error: rnet has no connect yet\n"),
    ("kill web", "error: rnet has no kill\n hint: rnet stop -t 0 EP\n"),
    ("images", "error: rnet has no images: it manages networks, and programs need no image\n"),
    ("stop", "error: stop needs EP\n hint: rnet stop --help\n"),
    ("run -d", "error: run needs CMD\n hint: rnet run --help\n"),
    ("inspect", "error: inspect needs NET|EP\n hint: rnet inspect --help\n"),
    (
        "install /tmp/never /tmp/never",
        "error: install takes no further argument \"/tmp/never\"\n hint: rnet install --help\n",
    ),
    ("ls mynet", "error: ls takes no further argument \"mynet\"\n hint: rnet ls --help\n"),
    ("lsx", "error: rnet has no lsx\n hint: did you mean ls?\n"),
    ("frobnicate", "error: rnet has no frobnicate\n hint: rnet --help\n"),
];

#[test]
fn dockers_words_have_an_answer_of_their_own() {
    let host = Host::forwarding();
    for (line, stderr) in ANSWERS {
        host.fails(line, 2, stderr);
    }
    for (line, message) in [
        ("interop", "interop needs one of status, enable, disable"),
        ("dns", "dns needs one of "),
        ("", "rnet needs one of create, ls, "),
    ] {
        let told = host.rnet(&format!("--json {line}"));
        let told: Value = serde_json::from_str(&told.stderr).unwrap();
        assert!(told["error"]["message"].as_str().unwrap().starts_with(message), "{told}");
    }
    let told = host.rnet("--json run -it sh");
    let told: Value = serde_json::from_str(&told.stderr).unwrap();
    assert_eq!(
        (&told["error"]["code"], &told["error"]["hint"]),
        (&"usage".into(), &"rnet --json run sh".into())
    );
    for line in
        ["create -d overlay lab", "create --driver macvlan lab", "create -d nosuch lab", "run -p", "stop"]
    {
        let said = host.refused(line, 2);
        assert!(!said.contains("tip:"), "{said}");
    }
    assert_eq!(host.ok("ls -q"), "");
}
