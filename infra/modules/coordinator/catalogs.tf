# Rights on catalogs that AWS keeps, by their Iceberg REST endpoints: Glue's databases, and buckets of S3 Tables. Without either
# there is no such policy.

locals {
  glue    = join(":", [local.arn, "glue", var.account.region, var.account.id])
  catalog = length(var.glue_databases) + length(var.table_buckets) > 0

  catalogs = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [for databases in [var.glue_databases] : {
        Sid    = "ReadGlue"
        Effect = "Allow"
        Action = ["glue:GetCatalog", "glue:GetDatabase", "glue:GetDatabases", "glue:GetTable", "glue:GetTables"]
        Resource = concat(
          ["${local.glue}:catalog"],
          [for database in databases : "${local.glue}:database/${database}"],
          [for database in databases : "${local.glue}:table/${database}/*"],
        )
      } if length(databases) > 0],
      [for buckets in [var.table_buckets] : {
        Sid    = "ReadTableBuckets"
        Effect = "Allow"
        Action = [
          "s3tables:GetNamespace", "s3tables:GetTable", "s3tables:GetTableBucket", "s3tables:GetTableData",
          "s3tables:GetTableMetadataLocation", "s3tables:ListNamespaces", "s3tables:ListTables",
        ]
        Resource = flatten([for bucket in buckets : [bucket, "${bucket}/table/*"]])
      } if length(buckets) > 0],
    )
  })
}

resource "aws_iam_policy" "catalogs" {
  count = local.catalog ? 1 : 0

  name        = "${var.name}-catalogs"
  description = "What Gust's coordinator may ask of catalogs"
  policy      = local.catalogs
  tags        = var.tags

  lifecycle {
    precondition {
      condition     = length(local.catalogs) <= 6144
      error_message = "the policy on catalogs has ${length(local.catalogs)} characters, and IAM takes 6144: use fewer databases and table buckets."
    }
  }
}
