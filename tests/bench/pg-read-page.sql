\set chat random(0, 99)
select id, pgp_sym_decrypt(body, 'a key of the bench') from message where chat = :chat order by id limit 50;
