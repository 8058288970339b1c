locals {
  arn           = "arn:${var.account.partition}"
  exchange      = [for bucket in var.exchange.buckets : "${local.arn}:s3:::${bucket}"]
  table_objects = [for t in var.tables : "${local.arn}:s3:::${t.bucket}/${t.prefix}*"]
  buckets       = [for bucket in distinct(concat(var.exchange.buckets, var.tables[*].bucket)) : "${local.arn}:s3:::${bucket}"]

  # Each function, with its alias and versions.
  function_arns = [for f in var.functions : join(":", [local.arn, "lambda", var.account.region, var.account.id, "function", f])]
  functions     = flatten([for arn in local.function_arns : [arn, "${arn}:*"]])

  work = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "Functions"
        Effect   = "Allow"
        Action   = ["lambda:GetAlias", "lambda:GetFunctionConfiguration", "lambda:InvokeFunction"]
        Resource = local.functions
      },
      {
        Sid    = "Quota"
        Effect = "Allow"
        Action = ["lambda:GetAccountSettings"]
        # This action knows no narrower resource.
        Resource = ["*"]
      },
      {
        Sid      = "Exchange"
        Effect   = "Allow"
        Action   = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
        Resource = [for bucket in local.exchange : "${bucket}/${var.exchange.prefix}*"]
      },
      {
        Sid       = "ListExchange"
        Effect    = "Allow"
        Action    = ["s3:ListBucket"]
        Resource  = local.exchange
        Condition = { StringLike = { "s3:prefix" = ["${var.exchange.prefix}*"] } }
      },
      {
        Sid      = "LocateBuckets"
        Effect   = "Allow"
        Action   = ["s3:GetBucketLocation"]
        Resource = local.buckets
      },
      {
        Sid      = "ReadTables"
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = local.table_objects
      },
    ]
  })

  # Each bucket has a statement, because one condition would mix their prefixes. With listing bound to a prefix, S3 answers 403,
  # not 404, for an object that does not exist.
  list_tables = jsonencode({
    Version = "2012-10-17"
    Statement = [for index, t in var.tables : merge(
      {
        Sid      = "ListTables${index}"
        Effect   = "Allow"
        Action   = ["s3:ListBucket"]
        Resource = ["${local.arn}:s3:::${t.bucket}"]
      },
      { for key, value in { Condition = { StringLike = { "s3:prefix" = ["${t.prefix}*"] } } } : key => value if t.prefix != "" },
    )]
  })
}

# The policies are separate, so that they can also be attached to a role that exists. They are two, because IAM bounds the length of each.
resource "aws_iam_policy" "work" {
  name        = var.name
  description = "What Gust's coordinator may do"
  policy      = local.work
  tags        = var.tags

  lifecycle {
    precondition {
      condition     = length(local.work) <= 6144
      error_message = "the coordinator's policy has ${length(local.work)} characters, and IAM takes 6144: use fewer tables (a whole bucket, or a prefix that they share) or fewer functions."
    }
  }
}

resource "aws_iam_policy" "list_tables" {
  name        = "${var.name}-tables"
  description = "What Gust's coordinator may list"
  policy      = local.list_tables
  tags        = var.tags

  lifecycle {
    precondition {
      condition     = length(local.list_tables) <= 6144
      error_message = "the policy on listing tables has ${length(local.list_tables)} characters, and IAM takes 6144: use fewer tables (a whole bucket, or a prefix that they share)."
    }
  }
}
