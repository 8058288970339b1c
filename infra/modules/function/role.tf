locals {
  arn = "arn:${var.account.partition}"
  log_group_arn = join(":", [
    local.arn, "logs", var.account.region, var.account.id, "log-group", aws_cloudwatch_log_group.this.name
  ])
}

resource "aws_iam_role" "this" {
  name        = var.name
  description = "What fragments of Gust's queries may do"
  tags        = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

# The request tells a function which objects to read, so that it may not list. S3 therefore answers 403, not 404, for an object
# that is gone: a reader of the error cannot tell one from the other.
resource "aws_iam_role_policy" "this" {
  name = "fragments"
  role = aws_iam_role.this.name

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "Log"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = ["${local.log_group_arn}:*"]
      },
      {
        Sid      = "Exchange"
        Effect   = "Allow"
        Action   = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
        Resource = [for bucket in var.exchange.buckets : "${local.arn}:s3:::${bucket}/${var.exchange.prefix}*"]
      },
      {
        Sid      = "ReadTables"
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = [for t in var.tables : "${local.arn}:s3:::${t.bucket}/${t.prefix}*"]
      },
    ]
  })
}

# The rights are those on network interfaces alone. The policy is AWS's own, because Lambda checks for its exact content.
resource "aws_iam_role_policy_attachment" "vpc" {
  count = var.vpc == null ? 0 : 1

  role       = aws_iam_role.this.name
  policy_arn = "${local.arn}:iam::aws:policy/service-role/AWSLambdaENIManagementAccess"
}
