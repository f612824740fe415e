#!/usr/bin/env bash
# Starts and stops the rivals of docs/benchmarks.md on loopback, in a directory of their own.
#   rivals.sh up DIR     etcd, three nodes (client ports 23791-23793), and PostgreSQL (port 54329), durable defaults
#   rivals.sh down DIR   ends the processes it started, by pid
# Debian packages: etcd-server, postgresql-15 (which carries pgbench and pgcrypto).
set -euo pipefail
verb=${1:?usage: rivals.sh up|down DIR}; dir=${2:?usage: rivals.sh up|down DIR}
pgbin=/usr/lib/postgresql/15/bin

etcd_up() {
  command -v etcd >/dev/null || { echo "etcd is missing: apt-get install etcd-server" >&2; exit 1; }
  local cluster=n1=http://127.0.0.1:23801,n2=http://127.0.0.1:23802,n3=http://127.0.0.1:23803
  for i in 1 2 3; do
    etcd --name "n$i" --data-dir "$dir/etcd$i" \
      --listen-client-urls "http://127.0.0.1:2379$i" --advertise-client-urls "http://127.0.0.1:2379$i" \
      --listen-peer-urls "http://127.0.0.1:2380$i" --initial-advertise-peer-urls "http://127.0.0.1:2380$i" \
      --initial-cluster "$cluster" --initial-cluster-state new >"$dir/etcd$i.log" 2>&1 &
    echo $! >>"$dir/pids"
  done
}

pg_up() {
  [ -x "$pgbin/postgres" ] || { echo "PostgreSQL is missing: apt-get install postgresql-15" >&2; exit 1; }
  mkdir -p "$dir/pg"; chown postgres "$dir/pg"; chmod 755 "$dir"
  su postgres -c "$pgbin/initdb -D $dir/pg -A trust --no-locale -E UTF8" >"$dir/initdb.log"
  su postgres -c "exec $pgbin/postgres -D $dir/pg -p 54329 -c listen_addresses=127.0.0.1 -c unix_socket_directories=" >"$dir/pg.log" 2>&1 &
  for _ in $(seq 100); do "$pgbin/pg_isready" -q -h 127.0.0.1 -p 54329 && break; sleep 0.1; done
  head -1 "$dir/pg/postmaster.pid" >>"$dir/pids"
  psql -q -h 127.0.0.1 -p 54329 -U postgres postgres <<'SQL'
create extension pgcrypto;
create table message (chat int, id bigserial, body bytea, primary key (chat, id));
insert into message (chat, body) select n % 100, pgp_sym_encrypt(repeat('lorem ipsum ', 4) || n, 'a key of the bench') from generate_series(1, 20000) n;
SQL
}

case $verb in
  up) mkdir -p "$dir"; : >"$dir/pids"; etcd_up; pg_up; sleep 3 ;;
  down) while read -r pid; do kill "$pid" 2>/dev/null || true; done <"$dir/pids" ;;
  *) echo "usage: rivals.sh up|down DIR" >&2; exit 2 ;;
esac
