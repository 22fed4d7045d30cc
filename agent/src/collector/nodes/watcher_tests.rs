use super::*;

#[test]
fn versions_are_compared_where_they_are_numbers_that_grew() {
    assert_eq!(before("7", "9"), Some(7));
    assert_eq!(before("9", "9"), Some(9));
    assert_eq!(before("10", "9"), None, "it was restored from a backup");
    assert_eq!(before("abc", "9"), None);
    assert_eq!(before("9", ""), None);
}
