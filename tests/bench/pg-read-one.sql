\set chat random(0, 99)
\set n random(1, 20000)
select id, pgp_sym_decrypt(body, 'a key of the bench') from message where chat = :n % 100 and id = :n;
