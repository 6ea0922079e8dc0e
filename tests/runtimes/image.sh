#!/bin/sh
# image.sh FILE: writes the one image of these tests to FILE, in the archive form that both `podman load` and `ctr images import` read.
#
# It holds Debian's static busybox. What it runs is an HTTP server on port 80 with a page of its own: pause image and workload alike.
set -eu

file=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

mkdir -p layer/bin layer/etc layer/tmp layer/www
cp /usr/bin/busybox layer/bin/busybox
for name in sh ip ping sleep cat httpd wget nslookup; do ln -s busybox "layer/bin/$name"; done
echo "a page out of a container" >layer/www/index.html
echo "root:x:0:0:root:/:/bin/sh" >layer/etc/passwd
tar -C layer --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf layer.tar .

digest=$(sha256sum layer.tar | cut -d ' ' -f 1)
cat >config.json <<JSON
{"architecture": "$(dpkg --print-architecture)", "os": "linux",
 "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/httpd", "-f", "-p", "80", "-h", "/www"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$digest"]}}
JSON
cat >manifest.json <<JSON
[{"Config": "config.json", "RepoTags": ["localhost/rnet-test:latest"], "Layers": ["layer.tar"]}]
JSON
tar -cf "$file" manifest.json config.json layer.tar
