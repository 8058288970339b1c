locals {
  # The account's root stands for everybody whom IAM policies of this account allow.
  principals = coalesce(var.principals, ["${local.arn}:iam::${var.account.id}:root"])
  trusted = {
    AWS     = [for p in local.principals : p if startswith(p, "arn:")]
    Service = [for p in local.principals : p if !startswith(p, "arn:")]
  }
}

resource "aws_iam_role" "this" {
  name        = var.name
  description = "Gust's coordinator"
  tags        = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { for kind, names in local.trusted : kind => names if length(names) > 0 }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "this" {
  for_each = merge(
    { work = aws_iam_policy.work.arn, list_tables = aws_iam_policy.list_tables.arn },
    { for policy in aws_iam_policy.catalogs : "catalogs" => policy.arn },
  )

  role       = aws_iam_role.this.name
  policy_arn = each.value
}
