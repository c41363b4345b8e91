# What the scripts share: they source this, stand in the root of the checkout then, and call the functions.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.."

VERSIONS=(3.11 3.12 3.13)
DEBIAN_PACKAGES=(nginx-light vsftpd squid-openssl docker-registry dnsmasq-base aria2 apt-utils gnupg)
SERVERS=(nginx vsftpd squid docker-registry dnsmasq aria2c apt-ftparchive gpg)   # what these packages bring
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"  # servers stand there, and a user's PATH may lack it

say() { printf '\033[1m%s\033[0m\n' "== $*" >&2; }

# find_python 3.12: print the path of an interpreter of that version, or fail.
find_python() {
  local candidate
  for candidate in $(type -aP "python$1") "$HOME/.pyenv/versions/$1".*/bin/"python$1"; do
    # A shim of pyenv may stand for a version that is not there: only running it tells.
    if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# debian_packages PACKAGE…: install them, starting no service.
debian_packages() {
  if [[ $EUID != 0 ]] || ! type -P apt-get >/dev/null; then
    say "missing: $*; install them as root (apt-get install $*)"
    [[ ${CI:-} != true ]]
    return
  fi
  say "installing $*"
  (
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
      trap 'rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' >"$policy"  # "action forbidden by policy": the tests start their own servers
      chmod +x "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends "$@" >/dev/null
  )
}

# install_servers: the real servers and programs that the tests talk to, unless they are there.
install_servers() {
  local server
  for server in "${SERVERS[@]}"; do
    type -P "$server" >/dev/null || { debian_packages "${DEBIAN_PACKAGES[@]}"; return; }
  done
}

# install_into DIRECTORY VERSION…: make the environment if need be, with the first interpreter found; bring it up to
# date with the checkout. Nothing is done, and no network asked, where its stamp says that it is.
install_into() {
  local venv=$1 version python='' stamp example
  shift
  if ! "$venv/bin/python" -c '' >/dev/null 2>&1; then
    for version in "$@"; do
      if python=$(find_python "$version"); then break; fi
    done
    [[ -n $python ]] || { say "no interpreter found for $venv: $*"; return 1; }
    # Debian ships the module in a package of its own.
    "$python" -c 'import ensurepip' 2>/dev/null || debian_packages "python$version-venv"
    say "making $venv with $python"
    "$python" -m venv --clear "$venv"
    echo '*' >"$venv/.gitignore"
  fi
  stamp=$({
    pwd
    cat pyproject.toml core/pyproject.toml drivers/*/pyproject.toml docs/examples/*/pyproject.toml scripts/_install.sh
    "$venv/bin/python" -VV
  } | sha256sum)
  if [[ -e $venv/installed && $(<"$venv/installed") == "$stamp" ]]; then return; fi
  say "installing into $venv"
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null  # made by uv
  local arguments=(-e './core[cli]' -e ./drivers/http -e ./drivers/ftp) tools
  for example in docs/examples/*/pyproject.toml; do
    arguments+=(-e "./${example%/pyproject.toml}")
  done
  # Not `pip install .[dev]`: pip would copy the three distributions instead of using them in place.
  tools=$("$venv/bin/python" -c '
import tomllib
with open("pyproject.toml", "rb") as file:
    print("\n".join(tomllib.load(file)["project"]["optional-dependencies"]["dev"]))')
  mapfile -t -O "${#arguments[@]}" arguments <<<"$tools"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore "${arguments[@]}"
  echo "$stamp" >"$venv/installed"
}
