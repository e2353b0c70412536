//! Keeps the board within its temperature and power budget.
