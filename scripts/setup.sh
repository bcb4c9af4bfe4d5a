#!/usr/bin/env bash
# Makes .venv with everything bora needs on a machine without a ROS 2 installation. Idempotent: a finished step is not done again.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { echo "setup: $1" >&2; exit 1; }

find_python() {
  local candidates=(python3 python3.12 python3.11) candidate version found=()
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    case "$version" in 3.11 | 3.12) echo "$candidate"; return ;; esac
    found+=("$candidate is $version")
  done
  [ ${#found[@]} -gt 0 ] || found=("no ${candidates[0]}")
  die "Python 3.11 or 3.12 is needed, found: ${found[0]}; set PYTHON=/path/to/python3.11"
}

install_debian_packages() {
  command -v dpkg-query >/dev/null || return 0
  local wanted=(gcc g++ cmake make libegl1 libegl-mesa0 libopengl0 libgl1-mesa-dri) missing=() package version
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$python" -c 'import ensurepip, venv' 2>/dev/null || wanted+=("python$version-venv")
  "$python" -c 'import pathlib, sysconfig; raise SystemExit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' ||
    wanted+=("python$version-dev")
  for package in "${wanted[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || [ -t 0 ] || die "these Debian packages are missing and there is no root: ${missing[*]}"
    sudo=(sudo)
  fi
  echo "setup: installing Debian packages: ${missing[*]}"
  "${sudo[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    die "these Debian packages could not be installed: ${missing[*]}"
}

# Runs a step once for each content of the files it depends on.
once() {
  local stamp=".venv/.done-$1" sum
  sum=$(cat "${@:3}" | sha256sum)
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sum" ] && return 0
  echo "setup: $1"
  "$2"
  echo "$sum" >"$stamp"
}

pip() { .venv/bin/python -m pip --disable-pip-version-check -q "$@"; }
step_environment() {
  pip install pip==25.3 setuptools==80.9.0
  pip install -r requirements-wheels.txt -c constraints/jazzy-wheels.txt
}
step_messages() { pip install --no-deps --force-reinstall ./bora_msgs; }
step_bora() { pip install --no-deps --no-build-isolation -e .; }

[ "$(uname -m)" = x86_64 ] || die "the ROS 2 wheels are for x86_64, this is $(uname -m): use a ROS 2 Jazzy installation, see README.md"
python=$(find_python)
install_debian_packages
.venv/bin/python -c 'import pip' 2>/dev/null || "$python" -m venv --clear .venv # also one whose making was interrupted
once environment step_environment requirements.txt requirements-wheels.txt constraints/jazzy-wheels.txt
mapfile -t interface_files < <(find bora_msgs -type f -not -path '*/build/*' | sort)
once messages step_messages "${interface_files[@]}"
once bora step_bora setup.py setup.cfg pyproject.toml package.xml
