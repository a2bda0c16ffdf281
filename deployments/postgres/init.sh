#!/usr/bin/env bash
# Runs once, in an empty data folder, as the superuser of the official postgres image. It creates the owner of the schema
# and one login per service, each a member of that service's role and nothing more. tenant-service migrates with the
# owner's login; the migrations leave existing roles as they are.
set -euo pipefail

psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
	--set owner_password="$MTM_OWNER_PASSWORD" --set tenant_password="$MTM_TENANT_PASSWORD" \
	--set ingest_password="$MTM_INGEST_PASSWORD" --set query_password="$MTM_QUERY_PASSWORD" \
	--set database="$POSTGRES_DB" <<'SQL'
CREATE ROLE mtm_owner LOGIN PASSWORD :'owner_password';
ALTER DATABASE :"database" OWNER TO mtm_owner;
-- The age of the oldest writing transaction, which holds back what readers see, is a metric.
GRANT pg_read_all_stats TO mtm_owner;
REVOKE CONNECT, TEMPORARY ON DATABASE :"database" FROM PUBLIC;

CREATE ROLE mtm_tenant NOLOGIN;
CREATE ROLE mtm_ingest NOLOGIN;
CREATE ROLE mtm_query NOLOGIN;
GRANT CONNECT ON DATABASE :"database" TO mtm_tenant, mtm_ingest, mtm_query;

CREATE ROLE tenant_service LOGIN PASSWORD :'tenant_password' IN ROLE mtm_tenant;
CREATE ROLE ingest_service LOGIN PASSWORD :'ingest_password' IN ROLE mtm_ingest;
CREATE ROLE query_service LOGIN PASSWORD :'query_password' IN ROLE mtm_query;

-- Settings belong to the login, not to the role it is a member of. An open writing transaction holds back what every
-- reader sees, so none lasts longer than this.
ALTER ROLE tenant_service SET statement_timeout = '30s';
ALTER ROLE ingest_service SET statement_timeout = '30s';
ALTER ROLE query_service SET statement_timeout = '30s';
ALTER ROLE tenant_service SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE ingest_service SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE query_service SET idle_in_transaction_session_timeout = '30s';
SQL
