#!/usr/bin/env bash
# Compares a deployment of release binaries with etcd and PostgreSQL on this machine; the table of docs/benchmarks.md.
#   compare.sh DIR [ROUNDS [SECONDS]]     DIR: new, on the disk to be measured; default 3 rounds of 5 seconds
# Contenders take turns within each round. Results: DIR/rows (one measurement a line), then a table of medians.
# Before: cargo build --release --workspace --bins && cargo build --release -p quorate-tests --example etcd_load
# Needs etcd-server, postgresql-15, jq and curl; root, because PostgreSQL changes to its own user.
set -euo pipefail
dir=${1:?usage: compare.sh DIR [ROUNDS [SECONDS]]}; rounds=${2:-3}; seconds=${3:-5}
here=$(cd "$(dirname "$0")" && pwd); bin=${BIN:-$here/../../target/release}
etcd_load=${ETCD_LOAD:-$bin/examples/etcd_load}; pgbench=/usr/lib/postgresql/15/bin/pgbench
parts=${PARTS:-custodian home cold}
[ ! -e "$dir" ] || { echo "$dir exists; name a new directory" >&2; exit 2; }
mkdir -p "$dir"; chmod 755 "$dir"; dir=$(cd "$dir" && pwd); rows=$dir/rows; : >"$rows"; : >"$dir/pids"
export QUORATE_DEPLOYMENT=$dir/q QUORATE_LOG=${QUORATE_LOG:-warn}

down() {
  while read -r pid; do kill "$pid" 2>/dev/null || true; done <"$dir/pids"
  [ ! -e "$dir/r/pids" ] || "$here/rivals.sh" down "$dir/r"
}
trap down EXIT

start() { # start CLUSTER...: its nodes, and waits until they are ready
  for cluster in "$@"; do
    for config in "$dir/q/$cluster"/node-*/config.toml; do
      "$bin/quorate-node" --config "$config" >>"${config%config.toml}process.log" 2>&1 &
      echo $! >>"$dir/pids"; echo $! >"${config%config.toml}pid"
    done
  done
  for cluster in "$@"; do
    for config in "$dir/q/$cluster"/node-*/config.toml; do
      local health; health=$(sed -n 's/^health = "\(.*\)"/\1/p' "$config")
      for _ in $(seq 600); do curl -sf -o /dev/null "http://$health/readyz" && continue 2; sleep 0.2; done
      echo "$config: not ready after 120 s, see process.log beside it" >&2; exit 1
    done
  done
}
stop() { # stop CLUSTER: in order, and waits
  for file in "$dir/q/$1"/node-*/pid; do kill "$(cat "$file")"; done
  for file in "$dir/q/$1"/node-*/pid; do while kill -0 "$(cat "$file")" 2>/dev/null; do sleep 0.1; done; done
}

# One line: round, what, operations/s, items/s, p50 ms, p99 ms, load average of the minute before.
row() {
  local load; load=$(cut -d' ' -f1 /proc/loadavg)
  awk -v OFS='\t' -v r="$round" -v w="$1" -v a="$2" -v b="$3" -v c="$4" -v d="$5" -v l="$load" \
    'function f(x, n) {return x + 0 == x ? sprintf("%." n "f", x) : x} BEGIN {print r, w, f(a, 0), f(b, 0), f(c, 2), f(d, 2), l}' |
    tee -a "$rows"
}
quorate() { # quorate NAME ARGS...: one case of `quorate bench`
  local name=$1 out; shift
  out=$("$bin/quorate" --json bench "$@" --time "$seconds" 2>>"$dir/bench.log") || echo "$name: $out" >&2
  # shellcheck disable=SC2046
  row "$name" $(jq -r '[.operations_per_second, .items_per_second, .p50_ms, .p99_ms] | map(. * 100 | round / 100) | join(" ")' <<<"$out")
}
etcd() { # etcd NAME CLIENTS
  local out; out=$("$etcd_load" 127.0.0.1:23791,127.0.0.1:23792,127.0.0.1:23793 "$2" "$seconds" 256)
  # shellcheck disable=SC2046
  row "$1" $(jq -r '[.per_second, .per_second, .p50_ms, .p99_ms] | map(. * 100 | round / 100) | join(" ")' <<<"$out")
}
postgres() { # postgres NAME SCRIPT ROWS-A-QUERY: percentiles of the queries from pgbench's own log
  local log=$dir/pglog.$RANDOM tps p
  tps=$("$pgbench" -h 127.0.0.1 -p 54329 -U postgres -n -M prepared -c 16 -j 2 -T "$seconds" -f "$here/$2" -l --log-prefix="$log" postgres 2>>"$dir/bench.log" |
    sed -n 's/^tps = \([0-9.]*\) .*/\1/p')
  p=$(cat "$log".* | awk '{print $3}' | sort -n | awk '{v[NR] = $1} END {printf "%.2f %.2f", v[int((NR + 1) / 2)] / 1000, v[int(NR * 0.99 + 0.5)] / 1000}')
  rm -f "$log".*
  # shellcheck disable=SC2086
  row "$1" "$tps" "$(awk -v t="$tps" -v n="$3" 'BEGIN {print t * n}')" $p
}
fsyncs() { # the disk: 4 KiB appends, each synced
  local s; s=$(LC_ALL=C dd if=/dev/zero of="$dir/dsync" bs=4k count=300 oflag=dsync 2>&1 | sed -n 's/.*, \([0-9.]*\) s, .*/\1/p')
  row "disk: 4 KiB dsync writes" "$(awk -v s="$s" 'BEGIN {print 300 / s}')" - "$(awk -v s="$s" 'BEGIN {print s * 1000 / 300}')" -
}
memory() { # memory NAME PID...: VmRSS and VmHWM of each, MiB
  local name=$1; shift
  for pid in "$@"; do
    awk -v n="$name" '/VmRSS/ {r = $2} /VmHWM/ {h = $2} END {printf "memory\t%s\t%.0f MiB now\t%.0f MiB at most\n", n, r / 1024, h / 1024}' "/proc/$pid/status"
  done | tee -a "$rows"
}

"$bin/quorate" deploy init "$dir/q" --topology "$here/small.toml" >"$dir/init.log"
"$here/rivals.sh" up "$dir/r"

if [[ $parts == *custodian* ]]; then
  start ch
  for round in $(seq "$rounds"); do
    fsyncs
    etcd "etcd put, 64 clients" 64
    quorate "share store, 64 clients" share-stores --custodian ch --clients 64
    quorate "release, 64 clients" releases --custodian ch --clients 64
    quorate "share store, 64 clients, 32 keys" share-stores --custodian ch --clients 64 --batch 32
    quorate "release, 64 clients, 32 keys" releases --custodian ch --clients 64 --batch 32
    etcd "etcd put, 1 client" 1
    quorate "share store, 1 client" share-stores --custodian ch --clients 1
    quorate "release, 1 client" releases --custodian ch --clients 1
  done
  # shellcheck disable=SC2046
  memory "custodian node" $(cat "$dir"/q/ch/node-*/pid)
  # shellcheck disable=SC2046
  memory "etcd node" $(head -3 "$dir/r/pids")
else
  start ch
fi

if [[ $parts == *home* || $parts == *cold* ]]; then start is sg ae; "$bin/quorate" login --name bench >>"$dir/init.log"; fi
if [[ $parts == *home* ]]; then
  for round in $(seq "$rounds"); do
    fsyncs
    postgres "postgres insert, 16 clients" pg-write.sql 1
    quorate "message write, 16 clients" writes --clients 16 --size 47
    postgres "postgres page of 50, 16 clients" pg-read-page.sql 50
    quorate "warm page of 50, 16 clients" pages --clients 16 --size 47 --page 50
    postgres "postgres row, 16 clients" pg-read-one.sql 1
    quorate "warm read, 16 clients" reads --clients 16 --size 47
  done
  # shellcheck disable=SC2046
  memory "home node" $(cat "$dir"/q/ae/node-*/pid)
fi
if [[ $parts == *cold* ]]; then
  # Leases of 10 s, so that they run out; in order: all three, then the measurement waits for their end.
  stop ae; sed -i 's/^lease_age_s_max = .*/lease_age_s_max = 10/' "$dir"/q/ae/node-*/config.toml; start ae
  for round in $(seq "$rounds"); do
    quorate "cold read, 1 client" cold --clients 1 --cold-chats 50 --settle 12
    quorate "release, 1 client, home running" releases --custodian ch --clients 1
  done
fi

echo; echo "medians of $rounds rounds"
printf '%-36s %12s %12s %9s %9s %6s\n' what ops/s items/s "p50 ms" "p99 ms" load
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
grep -v '^memory' "$rows" | cut -f2 | awk '!seen[$0]++' | while IFS= read -r what; do
  column() { awk -F'\t' -v w="$what" -v c="$1" '$2 == w {print $c}' "$rows" | median; }
  printf '%-36s %12s %12s %9s %9s %6s\n' "$what" "$(column 3)" "$(column 4)" "$(column 5)" "$(column 6)" "$(column 7)"
done
