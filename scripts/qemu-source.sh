# SPDX-License-Identifier: GPL-2.0-or-later
# Where QEMU's sources come from: sourced after common.sh, under the lock qemu-headers.

# source_version WANTED: the newest version, in the archive or fetched from it earlier, that is WANTED
# or begins with it.
source_version() {
  local known
  known=$({
    archive cache showsrc qemu 2>/dev/null | sed -n 's/^Version: //p'
    cat "$cache"/qemu/*/.fetched 2>/dev/null || true
  })
  [ -n "$known" ] || die "the archive lists no source of QEMU: run scripts/setup"
  newest "$1" <<<"$known"
}

# fetch_source VERSION FOLDER: unpacks that release. When Debian has dropped its packaging from the
# archive but not the upstream tarball, the tarball alone serves: Debian strips firmware from it,
# which the two edits make up for, and its patches do not touch the headers of a device.
fetch_source() {
  local version=$1 folder=$2 work
  work=$(mktemp -d "$cache/fetch.XXXXXX")
  chmod 755 "$work"
  (
    cd "$work"
    archive get source -q --download-only "qemu=$version" >log 2>&1 || true
    if compgen -G '*.dsc' >/dev/null && dpkg-source --no-check -x ./*.dsc tree >>log 2>&1; then
      :
    elif compgen -G '*.orig.tar.xz' >/dev/null; then
      mkdir tree
      tar -xJf ./*.orig.tar.xz -C tree --strip-components=1
      sed -i '/^pycotap/d' tree/pythondeps.toml
      sed -i 's/^if unpack_edk2_blobs$/if false/' tree/pc-bios/meson.build
    else
      tail -n 5 log >&2
      exit 1
    fi
    # Firmware sources are most of the tree and none of our business.
    find tree/roms -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
    rm -rf "$folder"
    mv tree "$folder"
  ) || {
    rm -rf "$work"
    return 1
  }
  rm -rf "$work"
}

# meson_for SOURCE: sets the environment for a QEMU that wants a newer Meson than Debian 12 has.
# The newer package is unpacked beside, so that the user's own stays as it is.
meson_for() {
  local folder=$cache/meson
  if [ ! -f "$1/pythondeps.toml" ] || dpkg --compare-versions "$(/usr/bin/meson --version)" ge 1.5; then
    return
  fi
  if [ ! -f "$folder/.complete" ]; then
    rm -rf "$folder"
    mkdir -p "$folder"
    (cd "$folder" && archive get download -q meson/bookworm-backports >log 2>&1 && dpkg-deb -x ./*.deb .) ||
      die "cannot get meson >= 1.5 from bookworm-backports: run scripts/setup"
    touch "$folder/.complete"
  fi
  export PYTHONPATH=$folder/usr/lib/python3/dist-packages
}

# unpack_source WANTED [exact]: makes sure that the source of that release is in the cache, and sets
# version, top (its folder in the cache) and source. Without "exact" a release that the archive has
# replaced is taken from the same series.
unpack_source() {
  local wanted=$1 series
  version=$(source_version "$wanted")
  if [ -z "$version" ]; then
    # An update has replaced the exact version: its series is the nearest the archive still has.
    series=$(sed -E 's/^[0-9]+://; s/^([0-9]+\.[0-9]+).*/\1/' <<<"$wanted")
    version=$(source_version "$series")
    [ "${2-}" != exact ] ||
      die "the source of QEMU $wanted is no longer in the archive; update qemu-system-x86 or remove $cache/stock"
    [ -n "$version" ] || die "the configured archives have no source of QEMU $wanted or of any other $series"
    say "QEMU $wanted is no longer in the archive; taking the source of $version"
  fi
  top=$cache/qemu/${version#*:}
  source=$top/source
  mkdir -p "$top"
  if [ ! -f "$top/.fetched" ]; then
    say "fetching the source of QEMU $version"
    fetch_source "$version" "$source" || die "cannot fetch the source of QEMU $version"
    echo "$version" >"$top/.fetched"
  fi
}
