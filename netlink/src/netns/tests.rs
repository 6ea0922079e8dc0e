//! Namespaces opened, entered, pinned and spawned into.

use super::*;

use std::io::Read;
use std::process::Stdio;

#[test]
fn a_created_namespace_is_another_and_can_be_opened_again() {
    let here = Netns::current().unwrap();
    let made = Netns::create().unwrap();
    assert_ne!(made.id(), here.id());
    assert_eq!(Netns::open(made.path()).unwrap().id(), made.id());
    assert_eq!(Netns::current().unwrap().id(), here.id());
}

#[test]
fn run_happens_inside_and_leaves_the_caller_where_it_was() {
    let here = Netns::current().unwrap();
    let made = Netns::create().unwrap();
    let inside = made.run(|| Netns::current().unwrap().id()).unwrap();
    assert_eq!(inside, made.id());
    assert_eq!(Netns::current().unwrap().id(), here.id());
}

#[test]
fn a_visitor_returns_even_after_a_panic() {
    let here = Netns::current().unwrap();
    let made = Netns::create().unwrap();
    let inside = made.visit(|| Netns::current().unwrap().id()).unwrap();
    assert_eq!(inside, made.id());
    assert_eq!(Netns::current().unwrap().id(), here.id());
    panic::catch_unwind(|| made.visit(|| panic!("inside"))).unwrap_err();
    assert_eq!(Netns::current().unwrap().id(), here.id());
}

#[test]
fn a_thread_that_could_not_return_starts_another() {
    let (read, write) = rustix::pipe::pipe().unwrap();
    fork_keeping(&[write.as_fd()], || {
        // SAFETY: the child has one thread; a user namespace changes no descriptors or memory.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }.unwrap();
        let home = Netns::current().unwrap();
        home.enter().unwrap_err();
        let made = Netns::create().unwrap();
        let inside = made.visit(|| Netns::current().unwrap().id()).unwrap();
        assert_eq!(inside, made.id());
        assert_eq!(Netns::current().unwrap().id(), home.id());
        rustix::io::write(&write, &[1]).unwrap();
    })
    .unwrap();
    drop(write);
    let mut received = Vec::new();
    std::fs::File::from(read).read_to_end(&mut received).unwrap();
    assert_eq!(received, [1]);
}

#[test]
fn cookies_differ_between_namespaces_and_stay() {
    let made = Netns::create().unwrap();
    let first = made.run(|| cookie().unwrap()).unwrap();
    assert_eq!(made.run(|| cookie().unwrap()).unwrap(), first);
    assert_ne!(cookie().unwrap(), first);
}

/// The substitute for the cookie on a kernel that has none.
#[test]
fn without_cookies_boot_and_inode_distinguish_namespaces() {
    let made = Netns::create().unwrap();
    let first = made.run(|| substitute().unwrap()).unwrap();
    assert_eq!(made.run(|| substitute().unwrap()).unwrap(), first);
    assert_ne!(substitute().unwrap(), first);
    assert_eq!(first & u64::from(u32::MAX), made.id().ino);
    let boot = std::fs::read_to_string(BOOT_ID).unwrap();
    assert!(boot.starts_with(&format!("{:08x}", first >> 32)), "{boot}");
}

#[test]
fn descriptors_are_kept_from_programs_one_by_one_too() {
    let (read, _write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::empty()).unwrap();
    assert!(!closes_on_exec(read.as_fd()));
    pass_on_one_by_one().unwrap();
    assert!(closes_on_exec(read.as_fd()));
    assert!(!closes_on_exec(rustix::stdio::stderr()));
}

fn closes_on_exec(fd: BorrowedFd<'_>) -> bool {
    rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC)
}

#[test]
fn a_path_without_network_namespace_is_refused_in_upstreams_words() {
    let missing = Netns::open(Path::new("/run/netns/none")).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "failed to open netns \"/run/netns/none\": failed to Statfs \"/run/netns/none\": no such file or directory"
    );
    let proc = Netns::open(Path::new("/proc/version")).unwrap_err();
    assert_eq!(
        proc.to_string(),
        "failed to open netns \"/proc/version\": unknown FS magic on \"/proc/version\": 9fa0"
    );
    let pid = Netns::open(Path::new("/proc/self/ns/pid")).unwrap_err();
    assert!(matches!(pid, Error::NotNetwork { .. }), "{pid}");
}

#[test]
fn a_pin_outlives_the_value_and_unpin_removes_it() {
    let path = PathBuf::from(format!("/run/netns-test-{}/pin", process::id()));
    let made = Netns::create().unwrap();
    made.pin(&path).unwrap();
    let id = made.id();
    assert!(matches!(made.pin(&path), Err(Error::Pin { errno: Errno::EXIST, .. })));
    drop(made);
    assert_eq!(Netns::open(&path).unwrap().id(), id);
    Netns::unpin(&path).unwrap();
    assert!(!path.exists());
    std::fs::remove_dir(path.parent().unwrap()).unwrap();
}

#[test]
fn a_spawned_program_sees_the_namespace_its_files_and_its_hostname() {
    let made = Netns::create().unwrap();
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "readlink /proc/self/ns/net; uname -n; cat /etc/rnet-test; pwd"])
        .stdout(Stdio::piped());
    let own = std::env::temp_dir().join(format!("rnet-own-{}", process::id()));
    std::fs::write(&own, "mine\n").unwrap();
    let binds = [(own.clone(), "/etc/rnet-test".into())];
    let child = spawn_in(&made, command, &binds, Some("app")).unwrap();
    let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let here = std::env::current_dir().unwrap();
    assert_eq!(output, format!("net:[{}]\napp\nmine\n{}\n", made.id().ino, here.display()));
    assert_ne!(rustix::system::uname().nodename(), c"app");
    assert!(!Path::new("/etc/rnet-test").exists());
    std::fs::remove_file(own).unwrap();
}

#[test]
fn a_spawned_program_sees_the_links_of_its_namespace_and_the_control_groups_below_sys() {
    let here = links_in_sys();
    let groups = std::fs::read_dir("/sys/fs/cgroup").unwrap().count();
    let made = Netns::create().unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ls -x /sys/class/net; ls -A /sys/fs/cgroup | wc -l"]).stdout(Stdio::piped());

    let child = spawn_in(&made, command, &[], None).unwrap();

    let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["lo", groups.to_string().as_str()]);
    assert_eq!(links_in_sys(), here, "the caller's own is unchanged");
}

fn links_in_sys() -> Vec<std::ffi::OsString> {
    std::fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn a_missing_bind_source_is_an_error_of_spawn() {
    let made = Netns::create().unwrap();
    let binds = [("/nowhere".into(), "/etc/rnet-test".into())];
    let refused = spawn_in(&made, Command::new("/bin/true"), &binds, None).unwrap_err();
    assert!(refused.to_string().contains("/bin/true"), "{refused}");
}

#[test]
fn a_forked_child_holds_only_what_it_was_given() {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let (closed, held) = rustix::pipe::pipe().unwrap();
    fork_keeping(&[write.as_fd()], || {
        let open = (0..256).filter(|fd| is_open(*fd)).count() as u8;
        let _ = rustix::io::write(&write, &[open]);
    })
    .unwrap();
    drop((write, held));
    let mut counted = [0];
    std::fs::File::from(read).read_exact(&mut counted).unwrap();
    assert_eq!(counted, [1]);
    // No other process has the other pipe's writing end, so its reader gets the end.
    assert_eq!(rustix::io::read(&closed, &mut [0u8; 1][..]).unwrap(), 0);
}

fn is_open(fd: i32) -> bool {
    // SAFETY: F_GETFD only looks at the number.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}
