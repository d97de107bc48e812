#!/bin/sh
# Hands purges from PostgreSQL (deploy/postgres/larder.sql) on to larder, each at least once: a row goes when larder
# has said that it is done. Needs psql and curl. Runs until PostgreSQL goes away; let systemd or the like restart it.
#
#   PGHOST, PGDATABASE, PGUSER …   where PostgreSQL is (libpq)
#   LARDER                         larder's admin port; http://127.0.0.1:9800 by default
#   ADMIN_TOKEN                    its token, if it has one
#   EVERY                          seconds between two looks; 0.2 by default
set -eu
larder=${LARDER:-http://127.0.0.1:9800}

{
  cat <<SQL
SELECT string_agg(id::text, ','), json_build_object('tags', json_agg(DISTINCT tag))
FROM (SELECT id, tag FROM larder_purges ORDER BY id LIMIT 100) AS waiting
HAVING count(*) > 0 \\watch ${EVERY:-0.2}
SQL
} | psql -XqAt -F ' ' -v ON_ERROR_STOP=1 | while read -r ids purge; do
  [ -n "$ids" ] || continue
  # By standard input, so that the token is in no list of processes.
  if printf 'header = "Authorization: Bearer %s"\n' "${ADMIN_TOKEN:-}" |
    curl --silent --show-error --fail --max-time 10 --output /dev/null --config - \
      --header 'Content-Type: application/json' --data-raw "$purge" "$larder/v1/purge"; then
    psql -Xq -v ON_ERROR_STOP=1 -c "DELETE FROM larder_purges WHERE id IN ($ids)"
  fi
done
