#!/bin/sh
# Lays out the build context of the demo image: this Dockerfile, and a rootfs with qbench and what it loads.
# QBENCH_EXECUTABLE is the qbench to put in, QBENCH_BUILD_DIR the folder to fill; `qbench` sets both before it builds.
set -eu

: "${QBENCH_EXECUTABLE:?the qbench program to put in the image}"
: "${QBENCH_BUILD_DIR:?the folder to fill}"

root=$QBENCH_BUILD_DIR/rootfs
rm -rf "$root"
mkdir -p "$root/usr/local/bin" "$root/etc" "$root/tmp"
cp "$(dirname "$0")/Dockerfile" "$QBENCH_BUILD_DIR/Dockerfile"
cp -L "$QBENCH_EXECUTABLE" "$root/usr/local/bin/qbench"
chmod 755 "$root/usr/local/bin/qbench"
# Debug information is most of a development build, and Docker copies it twice. An image with it works as well.
if command -v strip >/dev/null; then
  strip --strip-debug "$root/usr/local/bin/qbench" || true
fi
# Every absolute path that ldd names, the loader included, at the same place. A static program names none.
for library in $(ldd "$QBENCH_EXECUTABLE" 2>/dev/null | grep -o '/[^ ]*'); do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
