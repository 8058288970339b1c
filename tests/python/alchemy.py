"""Reads a server's tables by SQLAlchemy over PostgreSQL's protocol, and asks by its expressions: alchemy.py PORT."""

import sys

import sqlalchemy as sa

engine = sa.create_engine(f"postgresql+psycopg://ada@127.0.0.1:{sys.argv[1]}/gust")
about = sa.inspect(engine)
assert {"public", "gust"} <= set(about.get_schema_names()), about.get_schema_names()
assert about.get_table_names() == ["t"], about.get_table_names()
assert "queries" in about.get_view_names(schema="gust"), about.get_view_names(schema="gust")
assert about.has_table("t") and not about.has_table("nothing")
assert about.get_pk_constraint("t")["constrained_columns"] == [], about.get_pk_constraint("t")
assert about.get_foreign_keys("t") == [] and about.get_unique_constraints("t") == []
table = sa.table("t", sa.column("k", sa.BigInteger), sa.column("name", sa.Text))
with engine.connect() as connection:
    query = sa.select(table.c.name).where(table.c.k < 3).order_by(table.c.k)
    assert connection.execute(query).scalars().all() == ["n1", "n2"]
    count = sa.select(sa.func.count(), sa.func.max(table.c.k)).where(table.c.name.like("n1%"))
    assert tuple(connection.execute(count).one()) == (112, 1000), connection.execute(count).one()
    rows = connection.execution_options(stream_results=True, max_row_buffer=1000).execute(sa.text("SELECT value AS v FROM generate_series(1, 100003)"))
    assert sum(1 for _ in rows) == 100_003
    try:
        connection.execute(sa.text("SELECT * FROM ordres"))
    except sa.exc.ProgrammingError as error:
        assert error.orig.sqlstate == "42P01", error
    else:
        raise AssertionError("there is no such table")
print("ok")
