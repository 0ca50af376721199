#!/usr/bin/env bash
# Real database servers for the tests, private and passing: nothing is installed, no service is touched,
# every server listens on a free port of 127.0.0.1 and keeps its data in a directory of its own.
#
#   servers.sh fetch             gets what is missing, by Debian's package manager, into target/servers
#   servers.sh start NAME DIR    starts postgres, mysql or redis on the data in DIR, which is made where
#                                there is none; once it answers, prints its URL. A DIR keeps its port
#   servers.sh stop DIR          stops it in order
#   servers.sh kill DIR          kills it where it stands (SIGKILL)
#   servers.sh run COMMAND...    starts all three, runs the command with DOCKET_TEST_POSTGRES,
#                                DOCKET_TEST_MYSQL and DOCKET_TEST_REDIS set, stops them, and ends like it
#
# Servers that are on this machine are used as they are. Works as any user; PostgreSQL, which refuses to
# run as root, then runs as nobody.
set -euo pipefail
shopt -s nullglob

cache=${DOCKET_SERVERS:-$(cd "$(dirname "$0")/.." && pwd)/target/servers}
unpacked=$cache/root
NOBODY=65534

# Servers also stand where not every user's PATH goes.
find_programs() { PATH=$PATH:/usr/sbin$(printf ':%s' {,"$unpacked"}/usr/lib/postgresql/*/bin "$unpacked"/usr/{bin,sbin}); }
find_programs

say() { echo "servers.sh: $*" >&2; }
die() { say "$@"; exit 1; }
have() { local name; for name; do command -v "$name" >/dev/null || return 1; done; }
program() { command -v "$1" || die "\`$1\` is missing; run \`$0 fetch\`"; }
# Only the servers get the unpacked libraries: what a test starts runs with the machine's own.
libraries_in() { local dirs=("$1"/usr/lib/*-linux-gnu "$1"/lib/*-linux-gnu) && (IFS=: && echo "${dirs[*]}"); }
become() { exec env ${loaded:+"LD_LIBRARY_PATH=$loaded"} "$@"; }
call() { (become "$@"); }

fetch() {
    local packages=() missing deb
    have initdb pg_ctl postgres || packages+=(postgresql-15)
    have mariadbd mariadb-install-db mariadb || packages+=(mariadb-server-core mariadb-client-core)
    have redis-server redis-cli || packages+=(redis-server redis-tools)
    # What the tests look with.
    have sqlite3 || packages+=(sqlite3)
    have strace || packages+=(strace)
    [ ${#packages[@]} -gt 0 ] || return 0
    have apt-get dpkg || die "there is no apt-get here: install PostgreSQL, MariaDB, Redis, sqlite3 and strace, and run this again"
    mkdir -p "$cache/apt/lists/partial" "$cache/apt/archives/partial" "$unpacked"
    exec 9>"$cache/lock"
    flock 9 # two runs at once take turns
    say "downloading ${packages[*]} and what they need into $cache; nothing is installed"
    # Own lists and an own download directory: no root is needed, and nobody's lock is taken.
    local apt=(apt-get -qq -o "Dir::State::lists=$cache/apt/lists" -o "Dir::Cache=$cache/apt"
        -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)")
    "${apt[@]}" update 2>"$cache/apt/log" || { cat "$cache/apt/log" >&2 && die "the package lists cannot be downloaded"; }
    # All that this machine lacks, as installing would find it; `-s` only tells.
    missing=$("${apt[@]}" install -s --no-install-recommends "${packages[@]}" | awk '$1 == "Inst" { print $2 }') ||
        die "the packages ${packages[*]} are not to be had from this machine's package sources"
    (cd "$cache/apt/archives" && "${apt[@]}" download $missing) || die "the packages cannot be downloaded"
    for deb in "$cache"/apt/archives/*.deb; do dpkg -x "$deb" "$unpacked"; done
    rm -rf "$cache/apt"
    exec 9>&-
    find_programs
}

# A port nobody listens on now. Who is faster takes it: `start` then tries another.
free_port() {
    local port
    while port=$((20000 + RANDOM % 30000)); (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

as_nobody() { # runs a program in the server's directory, never as root
    local run=(env HOME="$dir")
    [ "$(id -u)" != 0 ] || run+=(setpriv --reuid=$NOBODY --regid=$NOBODY --clear-groups)
    (cd "$dir" && become "${run[@]}" "$@")
}

start_postgres() {
    local bin
    bin=$(dirname "$(readlink -f "$(program pg_ctl)")")
    if [ "$(id -u)" = 0 ]; then
        chown $NOBODY:$NOBODY "$dir"
        as_nobody test -w "$dir" || die "PostgreSQL does not run as root, and nobody may not write in $dir: choose one below /tmp"
        # A checkout below /root is closed to nobody, and the server runs from a copy.
        if ! as_nobody test -x "$bin/postgres"; then
            [ -d "$dir/server" ] || cp -r "$unpacked" "$dir/server"
            bin=$(echo "$dir"/server/usr/lib/postgresql/*/bin) && loaded=$(libraries_in "$dir/server")
        fi
    fi
    if [ ! -d "$dir/data" ]; then
        echo docket >"$dir/password" && chmod 644 "$dir/password"
        as_nobody "$bin/initdb" -D "$dir/data" -U docket -A scram-sha-256 --pwfile="$dir/password" -E UTF8 --no-locale >>"$dir/log" 2>&1
    fi
    as_nobody "$bin/pg_ctl" -w -t 60 -s -D "$dir/data" -l "$dir/data/server.log" start \
        -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=300" >>"$dir/log" 2>&1 || return 1
    head -1 "$dir/data/postmaster.pid" >"$dir/pid"
    echo "postgres://docket:docket@127.0.0.1:$port/postgres" >"$dir/url"
}

start_mysql() {
    local server base user
    server=$(readlink -f "$(program mariadbd)") && base=$(dirname "$(dirname "$server")") && user=$(id -un)
    if [ ! -d "$dir/data" ]; then
        call "$(program mariadb-install-db)" --no-defaults --basedir="$base" --datadir="$dir/data" --user="$user" \
            --auth-root-authentication-method=normal --skip-test-db --skip-name-resolve >>"$dir/log" 2>&1
        # One statement a line.
        printf '%s;\n' "CREATE DATABASE IF NOT EXISTS docket" "CREATE USER IF NOT EXISTS docket@'127.0.0.1' IDENTIFIED BY 'docket'" \
            "GRANT ALL ON *.* TO docket@'127.0.0.1' WITH GRANT OPTION" >"$dir/init.sql"
    fi
    become setsid "$server" --no-defaults --basedir="$base" --datadir="$dir/data" --user="$user" --init-file="$dir/init.sql" \
        --bind-address=127.0.0.1 --port="$port" --socket="$dir/socket" --pid-file="$dir/mysqld.pid" --skip-name-resolve \
        --innodb-flush-log-at-trx-commit=1 --sync-binlog=1 --max-allowed-packet=64M --max-connections=300 >>"$dir/log" 2>&1 &
    echo $! >"$dir/pid"
    echo "mysql://docket:docket@127.0.0.1:$port/docket" >"$dir/url"
    answers "$(program mariadb)" --no-defaults -h127.0.0.1 -P"$port" -udocket -pdocket -Ne "SELECT 'OK'"
}

start_redis() {
    mkdir -p "$dir/data"
    become setsid "$(program redis-server)" --bind 127.0.0.1 --port "$port" --dir "$dir/data" --appendonly yes \
        --appendfsync always --maxmemory-policy noeviction --save '' >>"$dir/log" 2>&1 &
    echo $! >"$dir/pid"
    echo "redis://127.0.0.1:$port" >"$dir/url"
    answers "$(program redis-cli)" -h 127.0.0.1 -p "$port" ping OK
}

runs() { grep -qs '^State:.[^Z]' "/proc/$1/status"; } # what has ended and was not waited for is a zombie

answers() { # asks until the server that was started answers
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        runs "$(cat "$dir/pid")" || return 1
        if call "$@" 2>/dev/null | grep -q '^OK'; then sleep 0.05; runs "$(cat "$dir/pid")"; return; fi
        sleep 0.1
    done
    return 1
}

start() {
    local name=$1 dir=$2 port loaded
    case $name in postgres | mysql | redis) ;; *) die "there is no server \`$name\`: postgres, mysql or redis" ;; esac
    mkdir -p "$dir" && dir=$(cd "$dir" && pwd) && loaded=$(libraries_in "$unpacked")
    for _ in 1 2 3 4 5; do
        if [ -s "$dir/port" ]; then port=$(cat "$dir/port"); else port=$(free_port); fi
        if "start_$name" >&2; then echo "$port" >"$dir/port" && cat "$dir/url" && return; fi
        [ ! -s "$dir/pid" ] || end kill "$dir"
        sleep 0.5
    done
    tail -n 20 "$dir/log" "$dir/data/server.log" >&2 2>/dev/null || true
    die "$name does not start on the data in $dir; its last words stand above"
}

end() { # stop|kill DIR: ends the server there, and waits until all of it has gone
    local how=$1 dir=$2 pid pids signal=TERM
    [ -s "$dir/pid" ] || die "there is no server in $dir"
    pids=$(cat "$dir/pid")
    [ ! -d "$dir/data/pg_wal" ] || signal=INT # to PostgreSQL, TERM says: when all clients have left
    [ "$how" = stop ] || signal=KILL pids="$pids $(cat "/proc/$pids/task/$pids/children" 2>/dev/null || true)"
    kill -$signal $pids 2>/dev/null || true
    for _ in {1..600}; do
        for pid in $pids; do ! runs "$pid" || { sleep 0.1 && continue 2; }; done
        # A killed PostgreSQL leaves this, and takes a zombie's number in it for a running server.
        rm -f "$dir/pid" "$dir/data/postmaster.pid" && return
    done
    die "the server in $dir does not end"
}

run() {
    fetch
    local name starting=() status=0
    all=$(mktemp -d "${TMPDIR:-/tmp}/docket-servers.XXXXXX") && chmod 755 "$all"
    trap 'for name in postgres mysql redis; do [ ! -s "$all/$name/pid" ] || end stop "$all/$name" || true; done; rm -rf "$all"' EXIT
    trap 'exit 130' INT TERM
    for name in postgres mysql redis; do mkdir "$all/$name" && { start $name "$all/$name" >/dev/null & starting+=($!); }; done
    for name in "${starting[@]}"; do wait "$name" || die "without all servers nothing is run"; done
    export DOCKET_TEST_POSTGRES DOCKET_TEST_MYSQL DOCKET_TEST_REDIS
    DOCKET_TEST_LIBRARIES=$(libraries_in "$unpacked") && export DOCKET_TEST_LIBRARIES # of the clients that were fetched
    read -r DOCKET_TEST_POSTGRES <"$all/postgres/url" && read -r DOCKET_TEST_MYSQL <"$all/mysql/url" && read -r DOCKET_TEST_REDIS <"$all/redis/url"
    "$@" || status=$?
    exit $status
}

case "${1:-} $#" in
"fetch 1") fetch ;;
"start 3") fetch && start "$2" "$3" ;;
"stop 2") end stop "$2" ;;
"kill 2") end kill "$2" ;;
"run "[2-9] | "run "[1-9][0-9]*) shift && run "$@" ;;
*) sed -n '2,14s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
