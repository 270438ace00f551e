-- Who holds a job proves it by a token, so that the end of its lease can be put off.
alter table jobs add column lease integer;
