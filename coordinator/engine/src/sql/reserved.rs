//! Words that are no names without quotes: those of the parser, and those that Trino reserves, for statements that are shown are read
//! there, too.

use datafusion::sql::sqlparser::keywords::{
    Keyword, RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_IDENTIFIER, RESERVED_FOR_TABLE_ALIAS, RESERVED_FOR_TABLE_FACTOR,
};
use datafusion::sql::sqlparser::tokenizer::Token;

/// Words that are in none of the parser's lists. Those at the end begin an expression of the parser's.
const MORE: &str = " alter and as between by case cast constraint create cube current_catalog current_date current_path \
    current_role current_schema current_time current_timestamp current_user deallocate delete describe distinct drop else \
    escape execute exists extract false grouping if in insert is json_array json_exists json_object json_query json_table \
    json_value like listagg localtime localtimestamp normalize not null or prepare recursive rollup skip table then true \
    uescape unnest when ceil convert filter floor lambda map overlay position safe_cast substr substring try_cast try_convert \
    tablesample all check foreign fulltext index key primary session_user spatial unique user ";

/// Tells if a word needs quotes to be a name.
pub(super) fn is_reserved(word: &str) -> bool {
    let Token::Word(parsed) = Token::make_word(word, None) else { return false };
    let lists =
        [RESERVED_FOR_TABLE_ALIAS, RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_TABLE_FACTOR, RESERVED_FOR_IDENTIFIER];
    let is_listed = parsed.keyword != Keyword::NoKeyword && lists.iter().any(|list| list.contains(&parsed.keyword));
    is_listed || MORE.split_whitespace().any(|more| more.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParser;
    use datafusion::sql::sqlparser::ast::{Expr, SelectItem, SetExpr, Statement, TableFactor};
    use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;

    use crate::sql::quoted;

    /// Parses a text of one statement, and writes it again.
    fn read(text: &str) -> Option<Statement> {
        let mut statements = DFParser::parse_sql(text).ok()?;
        match statements.pop_front()? {
            datafusion::sql::parser::Statement::Statement(statement) => Some(*statement),
            _ => None,
        }
    }

    fn is_a_name_everywhere(name: &str) -> bool {
        let query = read(&format!(
            "SELECT {name}, t.{name} AS {name} FROM lake.{name}.{name} WHERE {name} > 1 ORDER BY {name}"
        ));
        let Some(Statement::Query(query)) = query else { return false };
        let SetExpr::Select(select) = query.body.as_ref() else { return false };
        let is_column = matches!(&select.projection[0], SelectItem::UnnamedExpr(Expr::Identifier(_)));
        let is_table =
            matches!(&select.from[0].relation, TableFactor::Table { alias: None, name, .. } if name.0.len() == 3);
        let create = read(&format!("CREATE TABLE lake.{name}.{name} (a INT, {name} INT NOT NULL)"));
        let is_made = matches!(create, Some(Statement::CreateTable(create)) if create.columns.len() == 2);
        select.projection.len() == 2 && is_column && is_table && is_made
    }

    #[test]
    fn every_word_of_the_parser_is_a_name_once_it_is_quoted() {
        let words = ALL_KEYWORDS.iter().map(|word| word.to_lowercase());
        let not: Vec<String> = words.filter(|word| !is_a_name_everywhere(&quoted(word))).collect();
        assert!(not.is_empty(), "{not:?}");
        for plain in ["id", "date", "name", "day", "value", "year", "region", "status", "data", "sales", "orders"] {
            assert_eq!(quoted(plain), plain);
        }
        assert_eq!(
            ["order", "table", "end", "values"].map(quoted),
            ["\"order\"", "\"table\"", "\"end\"", "\"values\""]
        );
    }
}
