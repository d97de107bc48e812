-- What changes of rows purge, kept until larder has it: needs no extension. deploy/postgres/relay.sh hands it on.
--
--   CREATE TRIGGER purge AFTER INSERT OR UPDATE OR DELETE ON cars
--     FOR EACH ROW EXECUTE FUNCTION larder_purge('cars', 'car:{id}');
--
-- Each argument is a tag; {column} is the row's, as it was and as it is. For changes of many rows at a time, name
-- tags without columns and write FOR EACH STATEMENT. What is rolled back purges nothing.

CREATE TABLE larder_purges (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tag text NOT NULL
);

CREATE FUNCTION larder_purge() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  changed jsonb;
  named text;
  purged text;
BEGIN
  FOR i IN 0 .. TG_NARGS - 1 LOOP
    FOREACH changed IN ARRAY CASE
      WHEN TG_LEVEL = 'STATEMENT' THEN ARRAY[jsonb '{}']
      WHEN TG_OP = 'INSERT' THEN ARRAY[to_jsonb(NEW)]
      WHEN TG_OP = 'DELETE' THEN ARRAY[to_jsonb(OLD)]
      ELSE ARRAY[to_jsonb(OLD), to_jsonb(NEW)]
    END LOOP
      purged := TG_ARGV[i];
      FOR named IN SELECT m[1] FROM regexp_matches(TG_ARGV[i], '\{(\w+)\}', 'g') AS m LOOP
        -- A column that is missing or null leaves the whole tag out: it is never guessed.
        purged := replace(purged, '{' || named || '}', changed ->> named);
      END LOOP;
      -- Nor is anything stored by what is no tag; larder would refuse it, with all that waits beside it.
      IF octet_length(purged) BETWEEN 1 AND 256 AND purged !~ '[\u0001-\u001f\u007f-\u009f]' THEN
        INSERT INTO larder_purges (tag) VALUES (purged);
      END IF;
    END LOOP;
  END LOOP;
  -- Whoever LISTENs is told when this commits; the relay only looks.
  PERFORM pg_notify('larder_purge', '');
  RETURN NULL;
END
$$;
