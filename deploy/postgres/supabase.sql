-- Sends changes of rows to larder's purge.webhook, signed, as Supabase's database webhooks have them. Needs the
-- extensions pgcrypto and pg_net, which Supabase has. What pg_net cannot deliver is lost: where that must not be,
-- larder.sql keeps it.
--
--   SELECT vault.create_secret('…the secret of purge.webhook…', 'larder_secret');
--   SELECT vault.create_secret('https://shop.example/hooks/purge', 'larder_url');
--   CREATE TRIGGER purge AFTER INSERT OR UPDATE OR DELETE ON cars
--     FOR EACH ROW EXECUTE FUNCTION larder_webhook();

CREATE FUNCTION larder_webhook() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, extensions AS $$
DECLARE
  secret text := (SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'larder_secret');
  url text := (SELECT decrypted_secret FROM vault.decrypted_secrets WHERE name = 'larder_url');
  id text := 'msg_' || gen_random_uuid();
  sent text := extract(epoch FROM clock_timestamp())::bigint;
  body jsonb := jsonb_build_object(
    'type', TG_OP,
    'schema', TG_TABLE_SCHEMA,
    'table', TG_TABLE_NAME,
    'record', CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END,
    'old_record', CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END
  );
  -- As Standard Webhooks writes keys, or the key itself.
  key bytea := CASE
    WHEN starts_with(secret, 'whsec_') THEN decode(substr(secret, 7), 'base64')
    ELSE convert_to(secret, 'UTF8')
  END;
  signed bytea := convert_to(id || '.' || sent || '.' || body::text, 'UTF8');
  signature text := encode(hmac(signed, key, 'sha256'), 'base64');
BEGIN
  PERFORM net.http_post(
    url := url,
    body := body,
    headers := jsonb_build_object(
      'Content-Type', 'application/json',
      'webhook-id', id,
      'webhook-timestamp', sent,
      'webhook-signature', 'v1,' || signature
    )
  );
  RETURN NULL;
END
$$;
