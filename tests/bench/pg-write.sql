\set chat random(0, 99)
insert into message (chat, body) values (:chat, pgp_sym_encrypt('lorem ipsum lorem ipsum lorem ipsum lorem ipsum', 'a key of the bench'));
