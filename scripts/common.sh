# SPDX-License-Identifier: GPL-2.0-or-later
# What every script here shares: sourced by bash, never run.

set -euo pipefail

# Another python or meson may come first in the user's PATH; QEMU's build and pytest want Debian's.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C.UTF-8

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${CLOUDBLK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cloudblk}
readonly repo cache

# What was compiled in one clone is found again in another.
export CCACHE_BASEDIR=$repo CCACHE_NOHASHDIR=1

say() { printf '%s\n' "$*" >&2; }

# What the script's head says.
case ${1-} in
  -h | --help)
    sed -n '/^# Usage/,/^$/s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac

die() {
  say "${0##*/}: $*"
  exit 1
}

# run_logged LOG COMMAND...: keeps the output in LOG and shows its end only on failure.
run_logged() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 || {
    tail -n 30 "$log" >&2
    die "failed: $* (whole log: $log)"
  }
}

# as_root COMMAND...: only package installation needs it.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    command -v sudo >/dev/null || die "needs root to run: $*"
    sudo "$@"
  fi
}

# lock NAME: one process at a time works on that part of the cache; released when the shell exits.
lock() {
  mkdir -p "$cache"
  exec {lock_fd}>"$cache/.$1.lock"
  flock "$lock_fd"
}

# content_key TEXT...: short name for what a cached result was made from.
content_key() { printf '%s\n' "$@" | sha256sum | cut -c1-12; }

# write_flags QEMU-BUILD FILE: the compile flags of that QEMU. An unchanged file keeps its time,
# since everything compiled with it depends on it.
write_flags() {
  local new
  new=$("$repo/scripts/qemu-cflags" "$1")
  mkdir -p "$(dirname "$2")"
  if [ ! -f "$2" ] || [ "$(cat "$2")" != "$new" ]; then
    printf '%s\n' "$new" >"$2"
  fi
}

# make_headers QEMU-BUILD: the headers that QEMU's build generates, and nothing else of it.
make_headers() {
  (
    cd "$1"
    headers=$(ninja -t targets all | sed -nE 's/^([^:]*\.h): CUSTOM_COMMAND.*/\1/p')
    # shellcheck disable=SC2086 # one word per header
    run_logged "$1/cloudblk-headers.log" ninja $headers
  )
}

# archive get|cache ARGUMENT...: apt-get or apt-cache for QEMU's sources, and its packages, of every release
# that we need. They are known to an apt configuration of our own, which scripts/setup makes, so that the
# user's neither changes nor can contradict it.
archive() {
  [ -f "$cache/apt/apt.conf" ] || die "the archive is not known yet: run scripts/setup"
  "apt-$1" -c "$cache/apt/apt.conf" "${@:2}"
}

# newest BEGINNING: of the versions at standard input, without their epoch, the newest that is
# BEGINNING or begins with it.
newest() {
  sort -uV | awk -v wanted="$1" '{
    plain = $0; sub(/^[0-9]+:/, "", plain)
    rest = substr(plain, length(wanted) + 1)
    if ($0 == wanted || (index(plain, wanted) == 1 && rest ~ /^([^0-9]|$)/)) found = $0
  } END { print found }'
}

# stock_version RELEASE: the version of Debian's QEMU packages that scripts/qemu-stock gives for that release,
# "installed" or the beginning of a version: the installed one if it is of that release, or the one that
# was unpacked, or the newest in the archive. Nothing if there is none.
stock_version() {
  local installed
  installed=$(dpkg-query -W -f '${Version}' qemu-system-x86 2>/dev/null) || true
  if [ "$1" = installed ] || [ -n "$(newest "$1" <<<"$installed")" ]; then
    echo "$installed"
  elif [ -s "$cache/stock/$1/.complete" ]; then
    cat "$cache/stock/$1/.complete"
  else
    archive cache madison qemu-system-x86 | awk '$NF != "Sources" { print $3 }' | newest "$1"
  fi
}
