#!/bin/sh
# Installs the fedloom agent on Raspberry Pi OS (64-bit) or any Debian, joins a fleet and starts it:
#   sudo sh install-device.sh HOST:PORT INVITATION [--task TASK] [--data DIR]
# The two words are those of the line that `fedloom fleet invite` prints. Run again, it updates.
set -eu

fail() { echo "install-device: $1" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "run it with sudo"
case "$(uname -m)" in
    aarch64 | x86_64) ;;
    *) fail "this is a $(uname -m) system, for which numpy and onnxruntime have no packages; install a 64-bit one" ;;
esac
command -v python3 >/dev/null || fail "python3 is missing: apt install python3 python3-venv"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed"
python3 -c 'import ensurepip' 2>/dev/null || fail "python3-venv is missing: apt install python3-venv"
command -v systemctl >/dev/null || fail "systemd is missing"

home=/var/lib/fedloom-device
here=$(cd "$(dirname "$0")" && pwd)
[ -x /opt/fedloom/bin/python ] || python3 -m venv /opt/fedloom
/opt/fedloom/bin/pip install --quiet --upgrade "${FEDLOOM_PACKAGE:-fedloom}"

# With DynamicUser systemd keeps the folder below /var/lib/private and gives it to the unit's user itself.
if [ ! -e "$home/identity.pem" ]; then
    [ $# -ge 2 ] || fail "give HOST:PORT and INVITATION, as fedloom fleet invite prints them"
    mkdir -p /var/lib/private
    chmod 700 /var/lib/private
    [ -e "$home" ] || { mkdir -m 700 /var/lib/private/fedloom-device; ln -s private/fedloom-device "$home"; }
    FEDLOOM_HOME=$home /opt/fedloom/bin/fedloom device join "$@"
fi
install -m 644 "$here/fedloom-device.service" /etc/systemd/system/fedloom-device.service
systemctl daemon-reload
systemctl enable --quiet fedloom-device
systemctl restart fedloom-device
echo "the agent runs; see it with: systemctl status fedloom-device"
