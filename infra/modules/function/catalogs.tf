# Files of S3 Tables are read by the right on their table. Without a bucket of tables there is no such policy.

resource "aws_iam_role_policy" "table_buckets" {
  count = length(var.table_buckets) > 0 ? 1 : 0

  name = "table-buckets"
  role = aws_iam_role.this.name

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "ReadTableBuckets"
      Effect   = "Allow"
      Action   = ["s3tables:GetTableData"]
      Resource = [for bucket in var.table_buckets : "${bucket}/table/*"]
    }]
  })
}
