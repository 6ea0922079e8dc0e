#!/bin/sh
# Cargo's runner (.cargo/config.toml): sandbox.sh PROGRAM [ARGUMENT…]
#
# It starts test and bench binaries in separate namespaces. So they cannot reach this machine's network, and what they start ends with
# them. It starts all other programs (`cargo run`) unchanged.
#
# With RNET_TEST_RUNTIMES=1 or RNET_TEST_COEXIST=1, as root, there is no user namespace, because the container runtimes and firewalls need
# the real root. Instead, /etc, /var/lib and /sys are shielded too.
set -eu

real_root=${RNET_TEST_RUNTIMES-}${RNET_TEST_COEXIST-}

say() { echo "netns-fixtures/sandbox.sh: $*" >&2; }

# Inside: first the mounts, then the program. This shell stays its parent: as process 1 it reaps the processes that tests leave behind.
private_run() { mount -t tmpfs -o mode=755 tmpfs /run; }

# A new sysfs shows the interfaces of this network namespace. The control groups are moved to it. crun refuses the hybrid tree.
fresh_sys() {
    mkdir /run/cgroup
    mount --rbind /sys/fs/cgroup /run/cgroup
    mount -t sysfs sysfs /sys
    mount --rbind /run/cgroup /sys/fs/cgroup
    umount -l /run/cgroup
    rmdir /run/cgroup
    umount /sys/fs/cgroup/unified 2>/dev/null || :
}

# Keeps in memory what runtimes and plugins write below DIRECTORY.
overlay() {
    mkdir -p "/run/overlay$1/upper" "/run/overlay$1/work"
    mount -t overlay -o "lowerdir=$1,upperdir=/run/overlay$1/upper,workdir=/run/overlay$1/work" overlay "$1"
}

if [ "${1-}" = --inside ]; then
    shift
    private_run
    if [ -n "$real_root" ]; then
        fresh_sys
        overlay /etc
        overlay /var/lib
    fi
    # `set -e` must not hide the program's exit status.
    status=0
    RNET_SANDBOX=1 "$@" || status=$?
    exit "$status"
fi

# rustdoc runs documentation tests through the same runner, from another folder.
case "${1-}" in
*/deps/* | */rustdoctest*) ;;
*) exec "$@" ;;
esac

if ! command -v unshare >/dev/null; then
    say "unshare is missing (package util-linux); tests never run on the bare machine."
    exit 1
fi

processes="--pid --fork --kill-child --mount-proc"
can() { unshare "$@" true 2>/dev/null; }
# Starts itself through sh, because this file may be readable but not executable.
enter() { exec unshare "$@"; }

if [ -n "$real_root" ]; then
    if [ "$(id -u)" != 0 ]; then
        say "RNET_TEST_RUNTIMES=1 and RNET_TEST_COEXIST=1 need root: the programs under test do. Run it with sudo, or unset the variable."
        exit 1
    fi
    # shellcheck disable=SC2086
    enter --net --mount --uts --ipc $processes sh "$0" --inside "$@"
fi
# If /proc is partly hidden (in some containers), the kernel refuses a second one. Then there is no process namespace.
for namespaces in "--user --map-root-user --net --mount $processes" "--user --map-root-user --net --mount" "--net --mount"; do
    # shellcheck disable=SC2086
    if can $namespaces; then
        enter $namespaces sh "$0" --inside "$@"
    fi
done
say "the kernel grants neither a user namespace nor, to this user, a network namespace; tests never run on the bare machine."
say "Allow user namespaces (sysctl -w kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0,"
say "user.max_user_namespaces=10000; in a container: --security-opt seccomp=unconfined) or run cargo as root."
exit 1
