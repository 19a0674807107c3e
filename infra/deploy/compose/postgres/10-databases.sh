#!/bin/sh
# Runs once, when the volume is empty: a role and a database for each part, none of them a superuser.
set -eu

make_database() {
  psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set name="$1" --set password="$2" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
}

make_database headframe "$LEDGER_PASSWORD"
make_database mlflow "$MLFLOW_PASSWORD"
make_database prefect "$PREFECT_PASSWORD"
