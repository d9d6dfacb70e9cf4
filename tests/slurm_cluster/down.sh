#!/bin/bash
# Stops what up.sh started, by recorded process ids only, and waits until it is gone. Packages and state directory stay.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd); . "$HERE/testbed.env"; . "$HERE/lib/processes.sh"
[ "$(id -u)" = 0 ] || { echo "down.sh: must be root" >&2; exit 2; }
alone "$0" "$@"

# Hosts by what was recorded, not by TB_NODES: that may have been another number when they were started.
for f in "$RUN"/node*.host; do
  [ -e "$f" ] || continue
  n=$(basename "$f" .host)
  "$HERE/node.sh" crash "$n" 2>/dev/null || true
  ip link del "tb-$n" 2>/dev/null || true
  ip netns del "tb-$n" 2>/dev/null || true
  rm -f "$RUN/$n".*
done
end "$RUN/slurmctld.pid" slurmctld
end "$RUN/slurmdbd.pid" slurmdbd  # before its database
end "$RUN/mysql/mariadb.pid" mariadbd
end "$RUN/munged.pid" munged
if ip link show "$BR" >/dev/null 2>&1; then ip link del "$BR"; fi
rm -f /dev/fakegpu[0-9]*
for f in slurm.conf gres.conf cgroup.conf slurmdbd.conf; do
  if [ "$(readlink "/etc/slurm/$f")" = "$ETC/$f" ]; then rm "/etc/slurm/$f"; fi
done
# What jobs left in their hosts' /tmp can be large. Nothing of ours is mounted there outside the dead hosts' namespaces.
grep -q " $TB_STATE/nodes/" /proc/self/mountinfo || rm -rf --one-file-system "$TB_STATE"/nodes/*/tmp
