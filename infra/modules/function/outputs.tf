# The root module hands these out, and tests read the wiring. They are single attributes, because a plan reports each change of
# an output.

output "alias_arn" {
  value = aws_lambda_alias.live.arn
}

output "role_name" {
  value = aws_iam_role.this.name
}

output "function" {
  value = {
    arch                 = one(aws_lambda_function.this.architectures)
    memory_mb            = aws_lambda_function.this.memory_size
    temp_mb              = one(aws_lambda_function.this.ephemeral_storage).size
    timeout_seconds      = aws_lambda_function.this.timeout
    reserved_concurrency = aws_lambda_function.this.reserved_concurrent_executions
    package              = aws_lambda_function.this.filename
    subnet_ids           = flatten([for vpc in aws_lambda_function.this.vpc_config : tolist(vpc.subnet_ids)])
    log_retention_days   = aws_cloudwatch_log_group.this.retention_in_days
    alarm_topic_arns     = [for alarm in aws_cloudwatch_metric_alarm.this : tolist(alarm.alarm_actions)]
    tags                 = aws_lambda_function.this.tags
  }
}

output "policy" {
  value = aws_iam_role_policy.this.policy
}
