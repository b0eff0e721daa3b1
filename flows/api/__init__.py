"""What `import headstart` offers: functions, the values they return, and a scikit-learn transformer."""
