import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;

/** Asks a server of Gust as programs in Java do, by PostgreSQL's driver: PostgresJdbc.java PORT. The last line of the output is `ok`. */
public class PostgresJdbc {
    static final int ROWS = 1_000_003;
    static final String ENDLESS =
        "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value * b.value = -1";

    static void same(Object seen, Object expected, String what) {
        if (!String.valueOf(seen).equals(String.valueOf(expected))) {
            throw new AssertionError(what + ": " + seen + " is not " + expected);
        }
    }

    static Connection connect(String port, String more) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", "ada");
        return DriverManager.getConnection("jdbc:postgresql://127.0.0.1:" + port + "/gust" + more, properties);
    }

    static void values(Connection connection) throws SQLException {
        Object[][] values = {
            {"smallint", Types.SMALLINT, (short) -7},
            {"integer", Types.INTEGER, 7},
            {"bigint", Types.BIGINT, 1L << 62},
            {"double precision", Types.DOUBLE, 0.25},
            {"numeric(20, 4)", Types.NUMERIC, new BigDecimal("12345678901.2500")},
            {"text", Types.VARCHAR, "ä'\n\\"},
            {"boolean", Types.BOOLEAN, true},
            {"date", Types.DATE, Date.valueOf("2024-02-29")},
            {"timestamp", Types.TIMESTAMP, Timestamp.valueOf("1999-12-31 23:59:59.123456")},
        };
        for (Object[] value : values) {
            try (PreparedStatement statement = connection.prepareStatement("SELECT ?::" + value[0] + " AS v")) {
                // The driver asks for binary values from the fifth run on.
                for (int run = 0; run < 8; run++) {
                    for (boolean isNull : new boolean[] {false, true}) {
                        if (isNull) {
                            statement.setNull(1, (int) value[1]);
                        } else {
                            statement.setObject(1, value[2], (int) value[1]);
                        }
                        try (ResultSet rows = statement.executeQuery()) {
                            same(rows.next(), true, "a row");
                            Object seen = rows.getObject(1);
                            if (seen instanceof Integer && value[2] instanceof Short) {
                                seen = ((Integer) seen).shortValue();
                            }
                            same(seen, isNull ? null : value[2], value[0] + ", run " + run);
                            same(rows.wasNull(), isNull, value[0] + " is NULL");
                        }
                    }
                }
            }
        }
        try (PreparedStatement statement = connection.prepareStatement("SELECT name FROM t WHERE k = ? OR name = ? ORDER BY k")) {
            statement.setInt(1, 7);
            statement.setString(2, "n9");
            try (ResultSet rows = statement.executeQuery()) {
                List<String> names = new ArrayList<>();
                while (rows.next()) {
                    names.add(rows.getString("name"));
                }
                same(names, List.of("n7", "n9"), "rows of parameters");
            }
        }
    }

    static void manyRows(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(1_000);
            long count = 0;
            long total = 0;
            try (ResultSet rows = statement.executeQuery("SELECT value AS v FROM generate_series(1, " + ROWS + ")")) {
                while (rows.next()) {
                    count++;
                    total += rows.getLong("v");
                }
            }
            same(count, ROWS, "rows");
            same(total, (long) ROWS * (ROWS + 1) / 2, "their sum");
            // One that is closed early.
            try (ResultSet rows = statement.executeQuery("SELECT value AS v FROM generate_series(1, 100000000)")) {
                same(rows.next(), true, "a row");
            }
            try (ResultSet rows = statement.executeQuery("SELECT 1 AS one")) {
                same(rows.next() && rows.getInt(1) == 1, true, "the next statement");
            }
        }
        connection.commit();
        connection.setAutoCommit(true);
    }

    static void metadata(Connection connection) throws SQLException {
        DatabaseMetaData about = connection.getMetaData();
        same(about.getDatabaseProductName(), "PostgreSQL", "product");
        List<String> tables = new ArrayList<>();
        try (ResultSet rows = about.getTables(null, "public", "%", new String[] {"TABLE", "VIEW"})) {
            while (rows.next()) {
                tables.add(rows.getString("TABLE_NAME") + " " + rows.getString("TABLE_TYPE"));
            }
        }
        same(tables, List.of("t TABLE"), "tables");
        List<String> columns = new ArrayList<>();
        try (ResultSet rows = about.getColumns(null, "public", "t", "%")) {
            while (rows.next()) {
                columns.add(rows.getString("COLUMN_NAME") + " " + rows.getString("TYPE_NAME") + " " + rows.getInt("ORDINAL_POSITION"));
            }
        }
        same(columns, List.of("k int8 1", "name text 2"), "columns");
        List<String> schemas = new ArrayList<>();
        try (ResultSet rows = about.getSchemas()) {
            while (rows.next()) {
                schemas.add(rows.getString("TABLE_SCHEM"));
            }
        }
        same(schemas.contains("public") && schemas.contains("gust"), true, "schemas " + schemas);
        try (ResultSet rows = about.getCatalogs()) {
            same(rows.next(), true, "catalogs");
        }
        try (ResultSet rows = about.getTableTypes()) {
            same(rows.next(), true, "types of tables");
        }
    }

    static void errors(Connection connection) throws SQLException {
        String[][] wrong = {{"SELECT * FROM ordres", "42P01"}, {"SELEC 1", "42601"}, {"SELECT 1 / (k - 1) FROM t", "22000"}};
        for (String[] statement : wrong) {
            try (Statement sent = connection.createStatement()) {
                sent.executeQuery(statement[0]);
                throw new AssertionError(statement[0] + " succeeded");
            } catch (SQLException error) {
                same(error.getSQLState(), statement[1], statement[0]);
            }
        }
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            statement.executeQuery(ENDLESS);
            throw new AssertionError("it is endless");
        } catch (SQLException error) {
            same(error.getSQLState(), "57014", "a statement that takes too long");
        }
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery("SELECT 2 AS two")) {
            same(rows.next() && rows.getInt(1) == 2, true, "after the errors");
        }
    }

    public static void main(String[] arguments) throws SQLException {
        for (String more : new String[] {"", "?binaryTransfer=false"}) {
            try (Connection connection = connect(arguments[0], more)) {
                values(connection);
                System.out.println("values " + more);
                manyRows(connection);
                System.out.println("rows " + more);
                metadata(connection);
                System.out.println("metadata " + more);
                errors(connection);
            }
        }
        System.out.println("ok");
    }
}
