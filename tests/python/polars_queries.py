"""The 22 TPC-H queries for Polars, as lazy frames: it has no SQL for correlated subqueries.

Columns have the names and the order of `coordinator/src/demo/queries`. Products are of floats, because a product of Polars'
decimals is rounded to two digits. Joins stand in the order that a good planner would choose: Polars does not reorder them.
"""

from datetime import date
from decimal import Decimal

import polars as pl
from polars import col

Tables = dict[str, pl.LazyFrame]


def number(name: str) -> pl.Expr:
    return col(name).cast(pl.Float64)


def volume() -> pl.Expr:
    return number("l_extendedprice") * (1 - number("l_discount"))


def nations_of(t: Tables, region: str) -> pl.LazyFrame:
    chosen = t["region"].filter(col("r_name") == region)
    return chosen.join(t["nation"], left_on="r_regionkey", right_on="n_regionkey")


def q1(t: Tables) -> pl.LazyFrame:
    charge = volume() * (1 + number("l_tax"))
    return (
        t["lineitem"]
        .filter(col("l_shipdate") <= date(1998, 9, 2))
        .group_by("l_returnflag", "l_linestatus")
        .agg(
            sum_qty=col("l_quantity").sum(),
            sum_base_price=col("l_extendedprice").sum(),
            sum_disc_price=volume().sum(),
            sum_charge=charge.sum(),
            avg_qty=col("l_quantity").mean(),
            avg_price=col("l_extendedprice").mean(),
            avg_disc=col("l_discount").mean(),
            count_order=pl.len(),
        )
        .sort("l_returnflag", "l_linestatus")
    )


def q2(t: Tables) -> pl.LazyFrame:
    supply = (
        nations_of(t, "EUROPE")
        .join(t["supplier"], left_on="n_nationkey", right_on="s_nationkey")
        .join(t["partsupp"], left_on="s_suppkey", right_on="ps_suppkey")
    )
    parts = t["part"].filter((col("p_size") == 15) & col("p_type").str.ends_with("BRASS"))
    offers = parts.join(supply, left_on="p_partkey", right_on="ps_partkey")
    least = offers.group_by("p_partkey").agg(least=col("ps_supplycost").min())
    return (
        offers.join(least, on="p_partkey")
        .filter(col("ps_supplycost") == col("least"))
        .select("s_acctbal", "s_name", "n_name", "p_partkey", "p_mfgr", "s_address", "s_phone", "s_comment")
        .sort("s_acctbal", "n_name", "s_name", "p_partkey", descending=[True, False, False, False])
        .head(100)
    )


def q3(t: Tables) -> pl.LazyFrame:
    day = date(1995, 3, 15)
    return (
        t["customer"]
        .filter(col("c_mktsegment") == "BUILDING")
        .join(t["orders"].filter(col("o_orderdate") < day), left_on="c_custkey", right_on="o_custkey")
        .join(t["lineitem"].filter(col("l_shipdate") > day), left_on="o_orderkey", right_on="l_orderkey")
        .group_by("o_orderkey", "o_orderdate", "o_shippriority")
        .agg(revenue=volume().sum())
        .select(col("o_orderkey").alias("l_orderkey"), "revenue", "o_orderdate", "o_shippriority")
        .sort("revenue", "o_orderdate", descending=[True, False])
        .head(10)
    )


def q4(t: Tables) -> pl.LazyFrame:
    late = t["lineitem"].filter(col("l_commitdate") < col("l_receiptdate"))
    return (
        t["orders"]
        .filter((col("o_orderdate") >= date(1993, 7, 1)) & (col("o_orderdate") < date(1993, 10, 1)))
        .join(late, left_on="o_orderkey", right_on="l_orderkey", how="semi")
        .group_by("o_orderpriority")
        .agg(order_count=pl.len())
        .sort("o_orderpriority")
    )


def q5(t: Tables) -> pl.LazyFrame:
    year = (col("o_orderdate") >= date(1994, 1, 1)) & (col("o_orderdate") < date(1995, 1, 1))
    return (
        nations_of(t, "ASIA")
        .join(t["customer"], left_on="n_nationkey", right_on="c_nationkey")
        .join(t["orders"].filter(year), left_on="c_custkey", right_on="o_custkey")
        .join(t["lineitem"], left_on="o_orderkey", right_on="l_orderkey")
        .join(t["supplier"], left_on=["l_suppkey", "n_nationkey"], right_on=["s_suppkey", "s_nationkey"])
        .group_by("n_name")
        .agg(revenue=volume().sum())
        .sort("revenue", descending=True)
    )


def q6(t: Tables) -> pl.LazyFrame:
    return (
        t["lineitem"]
        .filter(
            (col("l_shipdate") >= date(1994, 1, 1))
            & (col("l_shipdate") < date(1995, 1, 1))
            & col("l_discount").is_between(Decimal("0.05"), Decimal("0.07"))
            & (col("l_quantity") < 24)
        )
        .select(revenue=(number("l_extendedprice") * number("l_discount")).sum())
    )


def q7(t: Tables) -> pl.LazyFrame:
    two = t["nation"].filter(col("n_name").is_in(["FRANCE", "GERMANY"]))
    suppliers = two.join(t["supplier"], left_on="n_nationkey", right_on="s_nationkey")
    customers = two.join(t["customer"], left_on="n_nationkey", right_on="c_nationkey")
    shipped = t["lineitem"].filter(col("l_shipdate").is_between(date(1995, 1, 1), date(1996, 12, 31)))
    return (
        customers.select("c_custkey", cust_nation="n_name")
        .join(t["orders"], left_on="c_custkey", right_on="o_custkey")
        .join(shipped, left_on="o_orderkey", right_on="l_orderkey")
        .join(suppliers.select("s_suppkey", supp_nation="n_name"), left_on="l_suppkey", right_on="s_suppkey")
        .filter(col("supp_nation") != col("cust_nation"))
        .group_by("supp_nation", "cust_nation", col("l_shipdate").dt.year().alias("l_year"))
        .agg(revenue=volume().sum())
        .sort("supp_nation", "cust_nation", "l_year")
    )


def q8(t: Tables) -> pl.LazyFrame:
    suppliers = t["supplier"].join(t["nation"], left_on="s_nationkey", right_on="n_nationkey")
    customers = nations_of(t, "AMERICA").join(t["customer"], left_on="n_nationkey", right_on="c_nationkey")
    years = col("o_orderdate").is_between(date(1995, 1, 1), date(1996, 12, 31))
    ours = pl.when(col("nation") == "BRAZIL").then(col("volume")).otherwise(0.0)
    return (
        t["part"]
        .filter(col("p_type") == "ECONOMY ANODIZED STEEL")
        .join(t["lineitem"], left_on="p_partkey", right_on="l_partkey")
        .join(t["orders"].filter(years), left_on="l_orderkey", right_on="o_orderkey")
        .join(customers.select("c_custkey"), left_on="o_custkey", right_on="c_custkey")
        .join(suppliers.select("s_suppkey", nation="n_name"), left_on="l_suppkey", right_on="s_suppkey")
        .select("nation", o_year=col("o_orderdate").dt.year(), volume=volume())
        .group_by("o_year")
        .agg(mkt_share=ours.sum() / col("volume").sum())
        .sort("o_year")
    )


def q9(t: Tables) -> pl.LazyFrame:
    amount = volume() - number("ps_supplycost") * number("l_quantity")
    suppliers = t["supplier"].join(t["nation"], left_on="s_nationkey", right_on="n_nationkey")
    return (
        t["part"]
        .filter(col("p_name").str.contains("green", literal=True))
        .join(t["partsupp"], left_on="p_partkey", right_on="ps_partkey")
        .join(t["lineitem"], left_on=["p_partkey", "ps_suppkey"], right_on=["l_partkey", "l_suppkey"])
        .join(suppliers.select("s_suppkey", nation="n_name"), left_on="ps_suppkey", right_on="s_suppkey")
        .join(t["orders"], left_on="l_orderkey", right_on="o_orderkey")
        .group_by("nation", col("o_orderdate").dt.year().alias("o_year"))
        .agg(sum_profit=amount.sum())
        .sort("nation", "o_year", descending=[False, True])
    )


def q10(t: Tables) -> pl.LazyFrame:
    quarter = (col("o_orderdate") >= date(1993, 10, 1)) & (col("o_orderdate") < date(1994, 1, 1))
    return (
        t["orders"]
        .filter(quarter)
        .join(t["lineitem"].filter(col("l_returnflag") == "R"), left_on="o_orderkey", right_on="l_orderkey")
        .group_by("o_custkey")
        .agg(revenue=volume().sum())
        .join(t["customer"], left_on="o_custkey", right_on="c_custkey")
        .join(t["nation"], left_on="c_nationkey", right_on="n_nationkey")
        .select(
            col("o_custkey").alias("c_custkey"),
            "c_name",
            "revenue",
            "c_acctbal",
            "n_name",
            "c_address",
            "c_phone",
            "c_comment",
        )
        .sort("revenue", descending=True)
        .head(20)
    )


def q11(t: Tables) -> pl.LazyFrame:
    value = number("ps_supplycost") * col("ps_availqty")
    return (
        t["nation"]
        .filter(col("n_name") == "GERMANY")
        .join(t["supplier"], left_on="n_nationkey", right_on="s_nationkey")
        .join(t["partsupp"], left_on="s_suppkey", right_on="ps_suppkey")
        .group_by("ps_partkey")
        .agg(value=value.sum())
        .filter(col("value") > col("value").sum() * 0.0001)
        .sort("value", descending=True)
    )


def q12(t: Tables) -> pl.LazyFrame:
    lines = t["lineitem"].filter(
        col("l_shipmode").is_in(["MAIL", "SHIP"])
        & (col("l_commitdate") < col("l_receiptdate"))
        & (col("l_shipdate") < col("l_commitdate"))
        & (col("l_receiptdate") >= date(1994, 1, 1))
        & (col("l_receiptdate") < date(1995, 1, 1))
    )
    high = col("o_orderpriority").is_in(["1-URGENT", "2-HIGH"])
    return (
        lines.join(t["orders"], left_on="l_orderkey", right_on="o_orderkey")
        .group_by("l_shipmode")
        .agg(high_line_count=high.sum(), low_line_count=(~high).sum())
        .sort("l_shipmode")
    )


def q13(t: Tables) -> pl.LazyFrame:
    orders = t["orders"].filter(~col("o_comment").str.contains("special.*requests"))
    return (
        t["customer"]
        .join(orders, left_on="c_custkey", right_on="o_custkey", how="left")
        .group_by("c_custkey")
        .agg(c_count=col("o_orderkey").count())
        .group_by("c_count")
        .agg(custdist=pl.len())
        .sort("custdist", "c_count", descending=True)
    )


def q14(t: Tables) -> pl.LazyFrame:
    month = (col("l_shipdate") >= date(1995, 9, 1)) & (col("l_shipdate") < date(1995, 10, 1))
    promoted = pl.when(col("p_type").str.starts_with("PROMO")).then(volume()).otherwise(0.0)
    return (
        t["lineitem"]
        .filter(month)
        .join(t["part"], left_on="l_partkey", right_on="p_partkey")
        .select(promo_revenue=100.0 * promoted.sum() / volume().sum())
    )


def q15(t: Tables) -> pl.LazyFrame:
    quarter = (col("l_shipdate") >= date(1996, 1, 1)) & (col("l_shipdate") < date(1996, 4, 1))
    revenue = t["lineitem"].filter(quarter).group_by("l_suppkey").agg(total_revenue=volume().sum())
    return (
        revenue.filter(col("total_revenue") == col("total_revenue").max())
        .join(t["supplier"], left_on="l_suppkey", right_on="s_suppkey")
        .select(col("l_suppkey").alias("s_suppkey"), "s_name", "s_address", "s_phone", "total_revenue")
        .sort("s_suppkey")
    )


def q16(t: Tables) -> pl.LazyFrame:
    complained = t["supplier"].filter(col("s_comment").str.contains("Customer.*Complaints"))
    parts = t["part"].filter(
        (col("p_brand") != "Brand#45")
        & ~col("p_type").str.starts_with("MEDIUM POLISHED")
        & col("p_size").is_in([49, 14, 23, 45, 19, 3, 36, 9])
    )
    return (
        parts.join(t["partsupp"], left_on="p_partkey", right_on="ps_partkey")
        .join(complained, left_on="ps_suppkey", right_on="s_suppkey", how="anti")
        .group_by("p_brand", "p_type", "p_size")
        .agg(supplier_cnt=col("ps_suppkey").n_unique())
        .sort("supplier_cnt", "p_brand", "p_type", "p_size", descending=[True, False, False, False])
    )


def q17(t: Tables) -> pl.LazyFrame:
    parts = t["part"].filter((col("p_brand") == "Brand#23") & (col("p_container") == "MED BOX"))
    lines = parts.join(t["lineitem"], left_on="p_partkey", right_on="l_partkey")
    means = lines.group_by("p_partkey").agg(few=0.2 * col("l_quantity").mean())
    return (
        lines.join(means, on="p_partkey")
        .filter(number("l_quantity") < col("few"))
        .select(avg_yearly=number("l_extendedprice").sum() / 7.0)
    )


def q18(t: Tables) -> pl.LazyFrame:
    large = t["lineitem"].group_by("l_orderkey").agg(total_quantity=col("l_quantity").sum())
    return (
        large.filter(col("total_quantity") > 300)
        .join(t["orders"], left_on="l_orderkey", right_on="o_orderkey")
        .join(t["customer"], left_on="o_custkey", right_on="c_custkey")
        .select(
            "c_name",
            col("o_custkey").alias("c_custkey"),
            col("l_orderkey").alias("o_orderkey"),
            "o_orderdate",
            "o_totalprice",
            "total_quantity",
        )
        .sort("o_totalprice", "o_orderdate", descending=[True, False])
        .head(100)
    )


def q19(t: Tables) -> pl.LazyFrame:
    def choice(brand: str, size: str, kinds: list[str], quantity: int, size_max: int) -> pl.Expr:
        return (
            (col("p_brand") == brand)
            & col("p_container").is_in([f"{size} {kind}" for kind in kinds])
            & col("l_quantity").is_between(quantity, quantity + 10)
            & col("p_size").is_between(1, size_max)
        )

    lines = t["lineitem"].filter(
        col("l_shipmode").is_in(["AIR", "AIR REG"]) & (col("l_shipinstruct") == "DELIVER IN PERSON")
    )
    parts = t["part"].filter(col("p_brand").is_in(["Brand#12", "Brand#23", "Brand#34"]))
    return (
        parts.join(lines, left_on="p_partkey", right_on="l_partkey")
        .filter(
            choice("Brand#12", "SM", ["CASE", "BOX", "PACK", "PKG"], 1, 5)
            | choice("Brand#23", "MED", ["BAG", "BOX", "PKG", "PACK"], 10, 10)
            | choice("Brand#34", "LG", ["CASE", "BOX", "PACK", "PKG"], 20, 15)
        )
        .select(revenue=volume().sum())
    )


def q20(t: Tables) -> pl.LazyFrame:
    year = (col("l_shipdate") >= date(1994, 1, 1)) & (col("l_shipdate") < date(1995, 1, 1))
    forest = t["part"].filter(col("p_name").str.starts_with("forest"))
    offers = t["partsupp"].join(forest, left_on="ps_partkey", right_on="p_partkey", how="semi")
    sold = (
        t["lineitem"]
        .filter(year)
        .join(offers, left_on=["l_partkey", "l_suppkey"], right_on=["ps_partkey", "ps_suppkey"], how="semi")
        .group_by("l_partkey", "l_suppkey")
        .agg(half=0.5 * number("l_quantity").sum())
    )
    plenty = offers.join(sold, left_on=["ps_partkey", "ps_suppkey"], right_on=["l_partkey", "l_suppkey"]).filter(
        col("ps_availqty") > col("half")
    )
    return (
        t["nation"]
        .filter(col("n_name") == "CANADA")
        .join(t["supplier"], left_on="n_nationkey", right_on="s_nationkey")
        .join(plenty, left_on="s_suppkey", right_on="ps_suppkey", how="semi")
        .select("s_name", "s_address")
        .sort("s_name")
    )


def q21(t: Tables) -> pl.LazyFrame:
    late = t["lineitem"].filter(col("l_receiptdate") > col("l_commitdate"))
    many = t["lineitem"].group_by("l_orderkey").agg(suppliers=col("l_suppkey").n_unique())
    alone = late.group_by("l_orderkey").agg(late_suppliers=col("l_suppkey").n_unique())
    return (
        t["nation"]
        .filter(col("n_name") == "SAUDI ARABIA")
        .join(t["supplier"], left_on="n_nationkey", right_on="s_nationkey")
        .join(late, left_on="s_suppkey", right_on="l_suppkey")
        .join(t["orders"].filter(col("o_orderstatus") == "F"), left_on="l_orderkey", right_on="o_orderkey")
        .join(many.filter(col("suppliers") > 1), on="l_orderkey", how="semi")
        .join(alone.filter(col("late_suppliers") == 1), on="l_orderkey", how="semi")
        .group_by("s_name")
        .agg(numwait=pl.len())
        .sort("numwait", "s_name", descending=[True, False])
        .head(100)
    )


def q22(t: Tables) -> pl.LazyFrame:
    code = col("c_phone").str.slice(0, 2)
    customers = (
        t["customer"]
        .with_columns(cntrycode=code)
        .filter(col("cntrycode").is_in(["13", "31", "23", "29", "30", "18", "17"]))
    )
    mean = customers.filter(col("c_acctbal") > 0).select(mean=col("c_acctbal").mean())
    return (
        customers.join(mean, how="cross")
        .filter(number("c_acctbal") > col("mean"))
        .join(t["orders"], left_on="c_custkey", right_on="o_custkey", how="anti")
        .group_by("cntrycode")
        .agg(numcust=pl.len(), totacctbal=col("c_acctbal").sum())
        .sort("cntrycode")
    )


QUERIES = [q1, q2, q3, q4, q5, q6, q7, q8, q9, q10, q11, q12, q13, q14, q15, q16, q17, q18, q19, q20, q21, q22]
