#!/bin/bash
# Starts a real multi-host SLURM cluster on this machine (root, no systemd needed). What already runs as it should is
# left alone, what is half dead is started again. Ends with 3 where a SLURM that is not ours must not be touched.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd); . "$HERE/testbed.env"; . "$HERE/lib/processes.sh"
[ "$(id -u)" = 0 ] || { echo "up.sh: must be root" >&2; exit 2; }
alone "$0" "$@"
T0=$(date +%s.%N)
CTL=$(hostname -s)
FILES="slurm.conf gres.conf cgroup.conf slurmdbd.conf"
SOCKET=$RUN/mysql/s.sock
step() { awk -v a="$T0" -v b="$(date +%s.%N)" -v m="$*" 'BEGIN{printf "[%6.2fs] %s\n", b-a, m}'; }
fail() { echo "up.sh: $*" >&2; exit 1; }
log_of() { tail -n 5 "$LOG/$1" >&2; fail "$2"; }
sql() { mariadb --no-defaults -S "$SOCKET" -e "$1"; }
hosts() { local i; for i in $(seq 1 "$TB_NODES"); do echo "node$i"; done; }

refuse_a_real_slurm() {
  local f
  for f in $FILES; do
    if [ -e "/etc/slurm/$f" ] && [ "$(readlink "/etc/slurm/$f")" != "$ETC/$f" ]; then
      echo "up.sh: /etc/slurm/$f is not ours: this machine belongs to a SLURM, which is left alone" >&2; exit 3
    fi
  done
}

make_directories() {
  install -d -m 0755 "$TB_STATE" "$RUN" "$TB_STATE/nodes" "$ETC" /etc/slurm
  install -d -m 1777 "$TB_STATE/share"
  install -d -m 0755 -o slurm -g slurm "$LOG" "$TB_STATE/ctld"
}

# One bridge; for each host a network namespace with its end of a cable.
make_network() {
  local n i=10
  ip link show "$BR" >/dev/null 2>&1 || ip link add "$BR" type bridge
  [ -n "$(ip -4 -o addr show dev "$BR" to "$TB_NET.1")" ] || ip addr add "$TB_NET.1/24" dev "$BR"
  ip link set "$BR" up
  for n in $(hosts); do
    i=$((i+1))
    : > "$RUN/$n.host"
    ip -n "tb-$n" link show eth0 >/dev/null 2>&1 || make_cable "$n" "$TB_NET.$i"
    ip link set "tb-$n" up
  done
}

make_cable() {
  "$HERE/node.sh" crash "$1" 2>/dev/null || true  # it would live on in a namespace without a name
  ip link del "tb-$1" 2>/dev/null || true
  ip netns del "tb-$1" 2>/dev/null || true
  ip netns add "tb-$1"
  ip link add "tb-$1" type veth peer name eth0 netns "tb-$1"
  ip link set "tb-$1" master "$BR"
  ip -n "tb-$1" addr add "$2/24" dev eth0
  ip -n "tb-$1" link set lo up
  ip -n "tb-$1" link set eth0 up
  ip -n "tb-$1" route add default via "$TB_NET.1"
}

# Character devices that behave like /dev/null.
make_gpus() {
  local g
  for g in $(seq 0 $((TB_GPUS-1))); do [ -e "/dev/fakegpu$g" ] || mknod -m 666 "/dev/fakegpu$g" c 1 3; done
}

accounting() {
  if [ "$TB_DBD" != 1 ]; then echo "AccountingStorageType=accounting_storage/none"; return; fi
  echo "AccountingStorageType=accounting_storage/slurmdbd"
  echo "AccountingStorageHost=$TB_NET.1"
  echo "AccountingStorageTRES=gres/gpu"
  [ -z "$TB_ENFORCE" ] || echo "AccountingStorageEnforce=$TB_ENFORCE"
}

filled() {
  sed -e "s|@CTL@|$CTL|g" -e "s|@NET@|$TB_NET|g" -e "s|@STATE@|$TB_STATE|g" -e "s|@RUN@|$RUN|g" -e "s|@LOG@|$LOG|g" \
    -e "s|@N@|$TB_NODES|g" -e "s|@LASTIP@|$((10+TB_NODES))|g" -e "s|@CPUS@|$TB_CPUS|g" -e "s|@MEM@|$TB_MEM_MB|g" \
    -e "s|@GPUS@|$TB_GPUS|g" -e "s|@PROCTRACK@|$TB_PROCTRACK|g" -e "s|@CRED@|$TB_CRED_EXPIRE|g" \
    -e "s|@SDT@|$TB_SLURMD_TIMEOUT|g" -e "s|@DBPORT@|$TB_DBPORT|g" "$HERE/lib/$1"
}

write_configuration() {
  local f n i=10
  { filled slurm.conf.in; accounting; } > "$ETC/slurm.conf.new"
  if [ "$(grep -v ^FirstJobId "$ETC/slurm.conf" 2>/dev/null)" = "$(grep -v ^FirstJobId "$ETC/slurm.conf.new")" ]; then
    rm "$ETC/slurm.conf.new"
  else
    end "$RUN/slurmctld.pid" slurmctld  # to be started with the new one
    mv "$ETC/slurm.conf.new" "$ETC/slurm.conf"
  fi
  echo "NodeName=node[1-$TB_NODES] Name=gpu File=/dev/fakegpu[0-$((TB_GPUS-1))]" > "$ETC/gres.conf"
  cp "$HERE/lib/cgroup.conf" "$ETC/cgroup.conf"
  install -m 600 -o slurm -g slurm /dev/null "$ETC/slurmdbd.conf"
  filled slurmdbd.conf.in > "$ETC/slurmdbd.conf"
  for f in $FILES; do ln -sfn "$ETC/$f" "/etc/slurm/$f"; done
  { echo "127.0.0.1 localhost"; echo "$TB_NET.1 ctl $CTL"
    for n in $(hosts); do i=$((i+1)); echo "$TB_NET.$i $n"; done; } > "$ETC/hosts"
}

start_munge() {
  local key=/etc/munge/munge.key
  [ -s $key ] || { (umask 077; head -c 128 /dev/urandom > $key); chown munge:munge $key; chmod 400 $key; }
  install -d -m 0755 -o munge -g munge /run/munge
  if timeout 3 munge -n >/dev/null 2>&1; then return; fi  # a munged of the machine serves as well
  if ! alive "$RUN/munged.pid" munged; then
    # --foreground and its pid written here: munged's own pid file vanishes when a second one fails to start
    setsid nohup setpriv --reuid=munge --regid=munge --clear-groups /usr/sbin/munged --foreground --num-threads=2 \
      --pid-file=/run/munge/testbed-munged.pid </dev/null >>"$LOG/munged.log" 2>&1 &
    echo $! > "$RUN/munged.pid"
  fi
  waitfor 10 munge -n || log_of munged.log "munged did not start"
}

start_database() {
  local data=$TB_STATE/mysql
  if alive "$RUN/mysql/mariadb.pid" mariadbd && mariadb-admin --no-defaults -S "$SOCKET" ping >/dev/null 2>&1; then return; fi
  end "$RUN/mysql/mariadb.pid" mariadbd
  install -d -m 0755 -o mysql -g mysql "$RUN/mysql"
  if [ ! -e "$data/complete" ]; then
    rm -rf "$data"; install -d -m 0700 -o mysql -g mysql "$data"
    timeout 120 mariadb-install-db --no-defaults --user=mysql --datadir="$data" --skip-test-db \
      --auth-root-authentication-method=socket >"$LOG/mariadb-install.log" 2>&1 || log_of mariadb-install.log "no MariaDB data directory"
    touch "$data/complete"
    step "MariaDB data directory made"
  fi
  setsid nohup mariadbd --no-defaults --user=mysql --datadir="$data" --socket="$SOCKET" --port="$TB_DBPORT" \
    --bind-address=127.0.0.1 --skip-name-resolve --pid-file="$RUN/mysql/mariadb.pid" --log-error="$LOG/mariadb.log" \
    --innodb-buffer-pool-size=64M --innodb-log-file-size=32M --innodb-lock-wait-timeout=900 \
    --innodb-flush-log-at-trx-commit=0 --performance-schema=OFF --max-connections=30 </dev/null >>"$LOG/mariadb.out" 2>&1 &
  waitfor 30 mariadb-admin --no-defaults -S "$SOCKET" ping || log_of mariadb.log "MariaDB did not start"
  sql "CREATE DATABASE IF NOT EXISTS slurm_acct_db; CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'testbed';
       GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';"
  step "MariaDB ready"
}

start_accounting() {
  if ! alive "$RUN/slurmdbd.pid" slurmdbd; then
    rm -f "$RUN/slurmdbd.pid"
    slurmdbd
    waitfor 30 timeout 5 sacctmgr -n list cluster || log_of slurmdbd.log "slurmdbd did not start"
    step "slurmdbd ready"
  fi
  if [ "$(timeout 10 sacctmgr -n -P list assoc cluster=testbed account=tb user=root format=user)" != root ]; then
    timeout 10 sacctmgr -i add cluster testbed >/dev/null || true  # says so when it is there
    timeout 10 sacctmgr -i add account tb Description=testbed Organization=testbed >/dev/null || true
    timeout 10 sacctmgr -i add user root Account=tb AdminLevel=Admin >/dev/null || fail "root has no account"
  fi
  # A site that demands an account is one where users have no default one; sacctmgr of Slurm 22 cannot take it away.
  sql "UPDATE slurm_acct_db.testbed_assoc_table SET is_def = (acct = 'tb' AND '$TB_ENFORCE' = '') WHERE user = 'root'"
  step "accounting ready"
}

# Starts without what an earlier, perhaps killed, run left in the queue. Numbers go on, or sacct would mix up the jobs.
start_controller() {
  local first=1 n
  if alive "$RUN/slurmctld.pid" slurmctld; then return; fi
  rm -f "$RUN/slurmctld.pid"
  [ "$TB_DBD" != 1 ] || first=$(timeout 10 sacct -a -n -X -P -S 2020-01-01 -o JobIDRaw | sort -n | tail -n 1)
  sed -i "s|^FirstJobId=.*|FirstJobId=$((${first:-0} + 1))|" "$ETC/slurm.conf"
  # Hosts that outlived a slurmctld start anew: no process of a forgotten job stays, and they report at once. Not
  # `scontrol reconfigure`: until they have reported again, srun and slurmstepd disagree on the protocol.
  for n in $(hosts); do "$HERE/node.sh" crash "$n" 2>/dev/null || true; done
  slurmctld -c
  waitfor 20 sh -c 'scontrol ping | grep -q UP' || log_of slurmctld.log "slurmctld did not start"
  step "slurmctld ready"
}

in_service() { [ "$(sinfo -h -N -p gpu -o '%N %t' | grep -c -E ' (idle|mix|alloc)$')" -eq "$TB_NODES" ]; }
out_of_service() { sinfo -h -N -p gpu -o '%N %t' | awk '$2 !~ /^(idle|mix|alloc)$/ {print $1}'; }

boot_hosts() {
  local n
  for n in $(hosts); do "$HERE/node.sh" boot "$n"; done
  step "hosts booted"
  if ! in_service; then
    for n in $(sinfo -h -N -p gpu -t down,drain,fail -o %N); do scontrol update "nodename=$n" state=resume; done
    waitfor 5 in_service || for n in $(out_of_service); do "$HERE/node.sh" crash "$n" || true; "$HERE/node.sh" boot "$n"; done
    waitfor 40 in_service || { sinfo -N -l >&2; fail "not all of $TB_NODES hosts are in service"; }
  fi
  step "all $TB_NODES hosts in service"
}

refuse_a_real_slurm
make_directories
make_network
make_gpus
step "network ready"
write_configuration
start_munge
step "munged ready"
if [ "$TB_DBD" = 1 ]; then start_database; start_accounting; fi
start_controller
boot_hosts
