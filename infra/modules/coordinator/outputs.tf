output "role_arn" {
  value = aws_iam_role.this.arn
  # A role is of use only once it has rights.
  depends_on = [aws_iam_role_policy_attachment.this]
}

output "policy_arns" {
  value = concat([aws_iam_policy.work.arn, aws_iam_policy.list_tables.arn], aws_iam_policy.catalogs[*].arn)
}

# Wiring by the root module, for tests.

output "policies" {
  value = concat([aws_iam_policy.work.policy, aws_iam_policy.list_tables.policy], aws_iam_policy.catalogs[*].policy)
}

output "assume_role_policy" {
  value = aws_iam_role.this.assume_role_policy
}

output "tags" {
  value = aws_iam_role.this.tags
}
