#!/bin/bash
# Starts a real multi-node SLURM cluster on this machine (root, no systemd needed).
# Idempotent: what already runs is left alone. Tear down with down.sh.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd); . "$HERE/testbed.env"
[ "$(id -u)" = 0 ] || { echo "up.sh: must be root" >&2; exit 2; }
T0=$(date +%s.%N)
step() { awk -v a="$T0" -v b="$(date +%s.%N)" -v m="$*" 'BEGIN{printf "[%6.2fs] %s\n", b-a, m}'; }
alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }
waitfor() { local n=$1; shift; for _ in $(seq 1 $((n*10))); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done; return 1; }
CTL=$(hostname -s)

if [ -e /etc/slurm/slurm.conf ] && ! grep -q 'slurm-testbed' /etc/slurm/slurm.conf; then
  echo "up.sh: /etc/slurm/slurm.conf exists and is not ours; refusing" >&2; exit 3
fi
install -d -m 0755 "$TB_STATE" "$RUN" "$TB_STATE/share" "$TB_STATE/nodes" "$ETC"
install -d -m 0755 -o slurm -g slurm "$LOG" "$TB_STATE/ctld"
chmod 1777 "$TB_STATE/share"

# ---- network: one bridge, one namespace + veth pair per node -------------------------------
if ! ip link show $BR >/dev/null 2>&1; then ip link add $BR type bridge; fi
ip addr show dev $BR | grep -q "$TB_NET.1/24" || ip addr add $TB_NET.1/24 dev $BR
ip link set $BR up
for i in $(seq 1 $TB_NODES); do
  n=node$i
  [ -e /run/netns/$n ] || ip netns add $n
  if ! ip link show tb-$n >/dev/null 2>&1; then
    ip link add tb-$n type veth peer name eth0 netns $n
    ip link set tb-$n master $BR
    ip -n $n addr add $TB_NET.$((10+i))/24 dev eth0
    ip -n $n link set lo up; ip -n $n link set eth0 up
    ip -n $n route add default via $TB_NET.1
  fi
  ip link set tb-$n up
done
step "network ready"

# ---- fake GPUs: character devices that behave like /dev/null --------------------------------
for g in $(seq 0 $((TB_GPUS-1))); do [ -e /dev/fakegpu$g ] || { mknod /dev/fakegpu$g c 1 3; chmod 666 /dev/fakegpu$g; }; done

# ---- configuration ------------------------------------------------------------------------------
ACCT="AccountingStorageType=accounting_storage/none"
if [ "$TB_DBD" = 1 ]; then
  ACCT="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$TB_NET.1
AccountingStorageTRES=gres/gpu"
  [ -z "$TB_ENFORCE" ] || ACCT="$ACCT
AccountingStorageEnforce=$TB_ENFORCE"
fi
sed -e "s|@CTL@|$CTL|g" -e "s|@NET@|$TB_NET|g" -e "s|@STATE@|$TB_STATE|g" -e "s|@RUN@|$RUN|g" -e "s|@LOG@|$LOG|g" \
    -e "s|@N@|$TB_NODES|g" -e "s|@LASTIP@|$((10+TB_NODES))|g" -e "s|@CPUS@|$TB_CPUS|g" -e "s|@MEM@|$TB_MEM_MB|g" \
    -e "s|@GPUS@|$TB_GPUS|g" -e "s|@PROCTRACK@|$TB_PROCTRACK|g" -e "s|@CRED@|$TB_CRED_EXPIRE|g" \
    -e "s|@SDT@|$TB_SLURMD_TIMEOUT|g" "$HERE/lib/slurm.conf.in" > "$ETC/slurm.conf.new"
awk -v a="$ACCT" '{ if ($0=="@ACCT@") print a; else print }' "$ETC/slurm.conf.new" > "$ETC/slurm.conf"; rm "$ETC/slurm.conf.new"
echo "NodeName=node[1-$TB_NODES] Name=gpu File=/dev/fakegpu[0-$((TB_GPUS-1))]" > "$ETC/gres.conf"
cp "$HERE/lib/cgroup.conf" "$ETC/cgroup.conf"
sed -e "s|@CTL@|$CTL|g" -e "s|@NET@|$TB_NET|g" -e "s|@LOG@|$LOG|g" -e "s|@RUN@|$RUN|g" -e "s|@DBPORT@|$TB_DBPORT|g" \
    "$HERE/lib/slurmdbd.conf.in" > "$ETC/slurmdbd.conf"
chown slurm:slurm "$ETC/slurmdbd.conf"; chmod 600 "$ETC/slurmdbd.conf"
install -d /etc/slurm
for f in slurm.conf gres.conf cgroup.conf slurmdbd.conf; do ln -sfn "$ETC/$f" /etc/slurm/$f; done
{ echo "127.0.0.1 localhost"; echo "$TB_NET.1 ctl $CTL"
  for i in $(seq 1 $TB_NODES); do echo "$TB_NET.$((10+i)) node$i"; done; } > "$ETC/hosts"

# ---- munge -----------------------------------------------------------------------------------------
[ -s /etc/munge/munge.key ] || { dd if=/dev/urandom of=/etc/munge/munge.key bs=128 count=1 2>/dev/null; chown munge:munge /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
install -d -m 0755 -o munge -g munge /run/munge
if ! timeout 3 munge -n >/dev/null 2>&1; then
  runuser -u munge -- /usr/sbin/munged --num-threads=2 --pid-file=/run/munge/testbed-munged.pid --log-file=/var/log/munge/munged.log
  waitfor 5 munge -n || { echo "up.sh: munged did not start" >&2; exit 4; }
fi
step "munged ready"

# ---- MariaDB + slurmdbd --------------------------------------------------------------------------
if [ "$TB_DBD" = 1 ]; then
  MY=$TB_STATE/mysql
  if ! alive $RUN/mariadb.pid; then
    install -d -m 0700 -o mysql -g mysql "$MY"; install -d -m 0755 -o mysql -g mysql "$RUN/mysql"
    if [ ! -d "$MY/mysql" ]; then
      mariadb-install-db --no-defaults --user=mysql --datadir="$MY" --skip-test-db --auth-root-authentication-method=socket \
        >"$LOG/mariadb-install.log" 2>&1
      step "MariaDB data directory made"
    fi
    setsid nohup mariadbd --no-defaults --user=mysql --datadir="$MY" --socket="$RUN/mysql/s.sock" --port=$TB_DBPORT \
      --bind-address=127.0.0.1 --skip-name-resolve --pid-file="$RUN/mysql/mariadb.pid" --log-error="$LOG/mariadb.log" \
      --innodb-buffer-pool-size=64M --innodb-log-file-size=32M --innodb-lock-wait-timeout=900 \
      --innodb-flush-log-at-trx-commit=0 --performance-schema=OFF --max-connections=30 </dev/null >>"$LOG/mariadb.out" 2>&1 &
    echo $! > $RUN/mariadb.pid
    waitfor 30 mariadb-admin --no-defaults -S "$RUN/mysql/s.sock" ping || { tail "$LOG/mariadb.log" >&2; exit 5; }
    mariadb --no-defaults -S "$RUN/mysql/s.sock" -e "CREATE DATABASE IF NOT EXISTS slurm_acct_db; CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'testbed'; GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';"
    step "MariaDB ready"
  fi
  if ! alive $RUN/slurmdbd.pid; then
    rm -f $RUN/slurmdbd.pid
    slurmdbd
    waitfor 30 sacctmgr -n list cluster || { tail "$LOG/slurmdbd.log" >&2; exit 6; }
    step "slurmdbd ready"
  fi
  if ! sacctmgr -n -P list cluster format=cluster | grep -qx testbed; then sacctmgr -i add cluster testbed >/dev/null; fi
  if ! sacctmgr -n -P list account format=account | grep -qx tb; then
    sacctmgr -i add account tb Description=testbed Organization=testbed >/dev/null
    sacctmgr -i add user root Account=tb AdminLevel=Admin >/dev/null || true
  fi
  step "accounting ready"
fi

# ---- slurmctld ---------------------------------------------------------------------------------------
if ! alive $RUN/slurmctld.pid; then
  rm -f $RUN/slurmctld.pid
  slurmctld
  waitfor 20 sh -c 'scontrol ping | grep -q UP' || { tail "$LOG/slurmctld.log" >&2; exit 7; }
  step "slurmctld ready"
fi

# ---- node hosts ------------------------------------------------------------------------------------------
for i in $(seq 1 $TB_NODES); do "$HERE/node.sh" boot node$i; done
step "nodes booted"
waitfor 40 sh -c "[ \$(sinfo -h -N -p gpu -o '%N %t' | sort -u | grep -c -E ' (idle|mix|alloc)\$') -eq $TB_NODES ]" \
  || { sinfo -N -l; tail -5 "$LOG"/slurmd.node*.log; exit 8; }
step "all $TB_NODES nodes idle"
