#!/bin/sh
# Makes node:20-slim out of this machine's own node and imports it into the Engine at DOCKER_HOST, unless it is there.
# Where no registry can be reached, a Dockerfile that says `FROM node:20-slim` then builds as it would elsewhere.
# Needs node, busybox-static and docker.
set -eu

image=node:20-slim
if docker image inspect "$image" >/dev/null 2>&1; then
  echo "$image is there already"
  exit 0
fi
node=$(command -v node) || { echo "no node on PATH; install nodejs" >&2; exit 3; }
busybox=$(command -v busybox) || { echo "no busybox on PATH; install busybox-static" >&2; exit 3; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/usr/local/bin" "$root/usr/bin" "$root/etc" "$root/root" "$root/tmp"
chmod 1777 "$root/tmp"
cp -L "$node" "$root/usr/local/bin/node"
# Every absolute path that ldd names, the loader included, at the same place in the image.
for library in $(ldd "$node" | grep -o '/[^ ]*'); do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
cp -L "$busybox" "$root/bin/busybox"
if [ -n "$(ldd "$busybox" 2>/dev/null | grep -o '=> /[^ ]*' || true)" ]; then
  echo "$busybox is not static; install busybox-static" >&2
  exit 3
fi
for applet in $("$busybox" --list); do
  ln -sf busybox "$root/bin/$applet"
done
ln -s ../../bin/env "$root/usr/bin/env"
printf 'root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000:node:/:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nnode:x:1000:\n' >"$root/etc/group"
tar -C "$root" -c . | docker import \
  --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' \
  --change 'CMD ["node"]' \
  --message "made from node $("$node" --version) of $(hostname)" \
  - "$image" >/dev/null
echo "$image made from node $("$node" --version) of this machine"
